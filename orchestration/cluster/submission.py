"""A job's way into a cluster, such that a submitter may be killed at any moment and two may try at once.

The ConfigMap with the experiment comes first and the job second, which is then made its owner: no job is ever without
its experiment, and an experiment without a job is taken or replaced by the next submission of its name.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml
from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from everest.config import Experiment
from everest.errors import EverestError
from everest.identity import same_experiment
from orchestration.cluster.errors import is_there_already
from orchestration.cluster.jobs import Jobs, state_of
from orchestration.cluster.manifest import EXPERIMENT_KEY, Manifest, are_ours
from orchestration.job import ENDED, NameInUseError, UnknownJobError

_GONE_S = 60
_UNHEARD_S = 15
_UNDER_WAY = timedelta(minutes=1)  # between another's ConfigMap and its job


class Submissions:
    """Jobs of one namespace, made with what they need."""

    def __init__(self, core: k8s.CoreV1Api, namespace: str, jobs: Jobs) -> None:
        self._core, self._namespace, self._jobs = core, namespace, jobs

    def submit(self, made: Manifest, grace_s: int) -> None:
        """Raises NameInUseError where a job of the name is going on, UsageError where it was another experiment."""
        name = made.config.metadata.name
        self._make_room(made, grace_s)
        config, needed = self._put(made.config), []
        try:
            needed = [self._jobs.put(each) for each in made.needed]
            self._create(made)
        except BaseException as error:
            if is_there_already(error):  # and may use the ConfigMap
                raise self._taken(name) from None
            for each in needed:
                self._jobs.delete(each)
            self._remove(config)
            raise
        there = self._jobs.get(name)
        try:
            self._own(config, there)
            for each in needed:
                self._jobs.patch(each, _owned(each["metadata"]["uid"], there))
        except NameInUseError:
            self._jobs.delete(there)
            raise

    def _create(self, made: Manifest) -> None:
        """What a job needs and was just made, those who admit it may not have heard of yet."""
        deadline = time.monotonic() + _UNHEARD_S
        while True:
            try:
                self._jobs.create(made.job)
            except ApiException as error:
                unheard = made.needed and error.status == 403 and "not found" in str(error.body)
                if not unheard or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def mend(self, config: Any) -> None:
        """Makes the ConfigMap of a job again where it is missing, whose pods wait for it."""
        there = self._jobs.get(config.metadata.name)
        if self._config_map(config.metadata.name) is None:
            self._own(self._put(config), there)

    def experiment(self, name: str) -> dict[str, Any] | None:
        """A job's, as it was submitted; None where the job is gone. Raises EverestError where that alone is."""
        if config := self._config_map(name):
            return dict(yaml.safe_load(config.data[EXPERIMENT_KEY]))
        try:
            self._jobs.get(name)
        except UnknownJobError:
            return None
        raise EverestError(
            f"{name} has lost its ConfigMap, and nobody knows what it begins from; cancel it, or submit it again"
        )

    def _make_room(self, made: Manifest, grace_s: int) -> None:
        """A job of that name that ended makes way; one that is being cancelled is waited for."""
        name = made.config.metadata.name
        try:
            there = self._jobs.get(name)
        except UnknownJobError:
            self._wait_until_gone(name, grace_s + _GONE_S)
            return
        state = state_of(there)
        if state not in {*ENDED, "cancelling"}:
            raise NameInUseError(
                f"{name} is {state} in {self._namespace} already; everest-jobs cancel {name} ends it, "
                f"or choose another --name"
            )
        if state in ENDED:
            self._refuse_another(there, made.config)
            self._try(made)
            self._jobs.delete(there)
        self._wait_until_gone(name, grace_s + _GONE_S, there["metadata"]["uid"])

    def _refuse_another(self, there: Any, config: Any) -> None:
        """What a finished job was begun with, its run in S3 was; one that failed may have had nothing right."""
        name = config.metadata.name
        before = self._config_map(name)
        if state_of(there) == "succeeded" and before and are_ours(before.metadata.labels):
            begun, now = (Experiment.parse(yaml.safe_load(each.data[EXPERIMENT_KEY])) for each in (before, config))
            same_experiment(begun, now, f"{name} (finished)")

    def _try(self, made: Manifest) -> None:
        """Whether the cluster would take the job, before another is removed for it. Where it needs what is not there
        yet, that alone can be tried."""
        if all(self._is_taken(each) for each in made.needed):
            self._is_taken(made.job)

    def _is_taken(self, manifest: Any) -> bool:
        """Whether the name is. Raises ApiException where the cluster would not take the object."""
        try:
            self._jobs.create(manifest, try_only=True)
        except ApiException as error:
            if not is_there_already(error):
                raise
            return True
        return False

    def _wait_until_gone(self, name: str, seconds: float, uid: str = "") -> None:
        """The job of that uid, and pods of a job of that name, which would answer to the names of the next one's."""
        deadline = time.monotonic() + seconds
        while (uid and self._is_there(name, uid)) or self._has_pods(name):
            if time.monotonic() > deadline:
                raise EverestError(
                    f"{name} is being removed from {self._namespace} for {seconds:.0f} s and is still there"
                )
            time.sleep(0.5)

    def _is_there(self, name: str, uid: str) -> bool:
        try:
            return bool(self._jobs.get(name)["metadata"]["uid"] == uid)
        except UnknownJobError:
            return False

    def _has_pods(self, name: str) -> bool:
        selectors = [f"{operator.of_job}={name}" for operator in self._jobs.operators]
        return any(self._core.list_namespaced_pod(self._namespace, label_selector=each).items for each in selectors)

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
        if not are_ours(there.metadata.labels):
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
        try:
            self._core.patch_namespaced_config_map(name, self._namespace, _owned(config.metadata.uid, job))
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


def _owned(uid: str, job: Any) -> dict[str, Any]:
    """A patch of the object of that uid, which goes with the job then."""
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": job["metadata"]["name"],
             "uid": job["metadata"]["uid"], "blockOwnerDeletion": True}  # fmt: skip
    return {"metadata": {"uid": uid, "ownerReferences": [owner]}}
