"""A job's way into a cluster, such that a submitter may be killed at any moment and two may try at once.

The ConfigMap with the experiment comes first and the job second, which is then made its owner: no job is ever without
its experiment, and an experiment without a job is taken or replaced by the next submission of its name.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml
from kubeflow.training import TrainingClient
from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from everest.config import Experiment
from everest.errors import EverestError
from everest.identity import same_experiment
from orchestration.cluster.errors import api_error, is_there_already
from orchestration.cluster.manifest import EXPERIMENT_KEY, LABELS, PYTORCHJOBS
from orchestration.cluster.pods import to_tree
from orchestration.job import ENDED, NameInUseError, State, UnknownJobError

_GONE_S = 60
_UNDER_WAY = timedelta(minutes=1)  # between another's ConfigMap and its job


class Submissions:
    """Jobs of one namespace, made and removed. ``job_of`` gets one by name, or raises UnknownJobError."""

    def __init__(
        self, training: TrainingClient, namespace: str, job_of: Callable[[str], Any], state_of: Callable[[Any], State]
    ) -> None:
        self._training, self._namespace, self._job_of, self._state_of = training, namespace, job_of, state_of
        self._core: k8s.CoreV1Api = training.core_api
        self._custom: k8s.CustomObjectsApi = training.custom_api

    def submit(self, job: Any, config: Any, grace_s: int) -> None:
        """Raises NameInUseError where a job of the name is going on, UsageError where it was another experiment."""
        name = job.metadata.name
        self._make_room(job, config, grace_s)
        made = self._put(config)
        try:
            self._training.create_job(job)
        except BaseException as error:
            if is_there_already(error):  # and may use the ConfigMap
                raise self._taken(name) from None
            self._remove(made)
            raise
        there = self._job_of(name)
        try:
            self._own(made, there)
        except NameInUseError:
            self.delete(there)
            raise

    def mend(self, config: Any) -> None:
        """Makes the ConfigMap of a job again where it is missing, whose pods wait for it."""
        there = self._job_of(config.metadata.name)
        if self._config_map(config.metadata.name) is None:
            self._own(self._put(config), there)

    def experiment(self, name: str) -> dict[str, Any] | None:
        """A job's, as it was submitted; None where the job is gone. Raises EverestError where that alone is."""
        if config := self._config_map(name):
            return dict(yaml.safe_load(config.data[EXPERIMENT_KEY]))
        try:
            self._job_of(name)
        except UnknownJobError:
            return None
        raise EverestError(
            f"{name} has lost its ConfigMap, and nobody knows what it begins from; cancel it, or submit it again"
        )

    def delete(self, job: Any) -> None:
        """That very job, and not one that has taken its name since."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        options = k8s.V1DeleteOptions(propagation_policy="Foreground", preconditions=k8s.V1Preconditions(uid=uid))
        try:
            self._training.delete_job(name, delete_options=options)
        except RuntimeError as error:
            found = api_error(error)
            if found and found.status == 409:
                raise NameInUseError(f"{name} was replaced by another job meanwhile; that one is left alone") from None
            if not found or found.status != 404:
                raise

    def patch(self, job: Any, patch: Any) -> None:
        """A JSON merge patch."""
        where = (*PYTORCHJOBS, self._namespace, "pytorchjobs")
        self._custom.patch_namespaced_custom_object(*where, job["metadata"]["name"], patch)

    def _make_room(self, job: Any, config: Any, grace_s: int) -> None:
        """A job of that name that ended makes way; one that is being cancelled is waited for."""
        name = job.metadata.name
        try:
            there = self._job_of(name)
        except UnknownJobError:
            return
        state = self._state_of(there)
        if state not in {*ENDED, "cancelling"}:
            raise NameInUseError(
                f"{name} is {state} in {self._namespace} already; everest-jobs cancel {name} ends it, "
                f"or choose another --name"
            )
        if state in ENDED:
            self._refuse_another(there, config)
            self._try(job)
            self.delete(there)
        self._wait_until_gone(there, grace_s + _GONE_S)

    def _refuse_another(self, there: Any, config: Any) -> None:
        """What a finished job was begun with, its run in S3 was; one that failed may have had nothing right."""
        name = config.metadata.name
        before = self._config_map(name)
        if self._state_of(there) == "succeeded" and before and _is_ours(before):
            begun, now = (Experiment.parse(yaml.safe_load(each.data[EXPERIMENT_KEY])) for each in (before, config))
            same_experiment(begun, now, f"{name} (finished)")

    def _try(self, job: Any) -> None:
        """Whether the cluster would take the job, before another is removed for it."""
        try:
            self._custom.create_namespaced_custom_object(
                *PYTORCHJOBS, self._namespace, "pytorchjobs", to_tree(job), dry_run="All"
            )
        except ApiException as error:
            if not is_there_already(error):
                raise

    def _wait_until_gone(self, job: Any, seconds: float) -> None:
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self._job_of(name)["metadata"]["uid"] != uid:
                    return
            except UnknownJobError:
                return
            time.sleep(0.5)
        raise EverestError(f"{name} is being removed from {self._namespace} for {seconds:.0f} s and is still there")

    def _put(self, config: Any) -> Any:
        """The ConfigMap as it is in the cluster: ours, or one that a killed submitter left."""
        name = config.metadata.name
        try:
            return self._core.create_namespaced_config_map(self._namespace, config)
        except ApiException as error:
            if not is_there_already(error):
                raise
        there = self._config_map(name)
        if there is None:
            return self._put(config)
        if not _is_ours(there):
            raise NameInUseError(
                f"the ConfigMap {name} in {self._namespace} is not one of this project; choose another --name"
            )
        owned = bool(there.metadata.owner_references)
        if not owned and there.data == config.data:
            return there
        if not owned and datetime.now(UTC) - there.metadata.creation_timestamp < _UNDER_WAY:
            raise NameInUseError(
                f"{name} is being submitted to {self._namespace} by somebody else; choose another --name"
            )
        self._remove(there)
        return self._put(config)

    def _remove(self, config: Any) -> None:
        options = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=config.metadata.uid))
        self._core.delete_namespaced_config_map(config.metadata.name, self._namespace, body=options)

    def _own(self, config: Any, job: Any) -> None:
        """Raises NameInUseError where another has replaced the ConfigMap that was made."""
        name = config.metadata.name
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name, "uid": job["metadata"]["uid"],
                 "blockOwnerDeletion": True}  # fmt: skip
        patch = {"metadata": {"uid": config.metadata.uid, "ownerReferences": [owner]}}
        try:
            self._core.patch_namespaced_config_map(name, self._namespace, patch)
        except ApiException as error:
            if error.status not in {404, 409}:
                raise
            raise self._taken(name) from None

    def _taken(self, name: str) -> NameInUseError:
        return NameInUseError(
            f"{name} was submitted to {self._namespace} by somebody else at this moment; choose another --name"
        )

    def _config_map(self, name: str) -> Any:
        try:
            return self._core.read_namespaced_config_map(name, self._namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise


def _is_ours(config: Any) -> bool:
    return bool((config.metadata.labels or {}).items() >= LABELS.items())
