"""The jobs of a namespace, whichever operators the cluster has: asked for, made and removed."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from everest.errors import EverestError
from orchestration.cluster.errors import answered, is_there_already
from orchestration.cluster.manifest import OURS, are_ours
from orchestration.cluster.operator import Operator
from orchestration.cluster.pods import to_tree
from orchestration.cluster.pytorchjob import PyTorchJobs
from orchestration.cluster.trainjob import TrainJobs
from orchestration.job import NameInUseError, State, UnknownJobError
from orchestration.settings import variable

OPERATORS: Sequence[Operator] = (PyTorchJobs(), TrainJobs())  # where there are both, the first is for new jobs
_BY_KIND = {kind: each for each in OPERATORS for kind in each.plurals}


def operator_of(job: Any) -> Operator:
    """``job``, or what it needs, is as the API server has it."""
    return _BY_KIND[job["kind"]]


def state_of(job: Any) -> State:
    return operator_of(job).state_of(job)


class Jobs:
    """``wanted``: an operator's setting, or ``auto`` for those that the cluster has."""

    def __init__(self, api: k8s.CustomObjectsApi, namespace: str, wanted: str) -> None:
        self.api, self._namespace, self._wanted = api, namespace, wanted

    @cached_property
    @answered
    def operators(self) -> Sequence[Operator]:
        """Those whose jobs are looked at, the one for new jobs first. Raises EverestError where there is none."""
        asked = [each for each in OPERATORS if self._wanted in {"auto", each.setting}]
        if found := [each for each in asked if self._has(each)]:
            return [found[0], *(each for each in found[1:] if self._may_list(each))]
        kinds = " or ".join(f"{each.kind}s ({each.named})" for each in asked)
        raise EverestError(f"the cluster knows no {kinds}: not installed, or {variable('operator')} names another")

    def all(self) -> Sequence[Any]:
        """Of this project."""
        return [job for operator in self.operators for job in self._of(operator)]

    def of_every_kind(self) -> Sequence[Any]:
        """Of this project, whichever operator is wanted. Raises ApiException, also where one may not see them all."""
        return [job for operator in OPERATORS if self._has(operator) for job in self._of(operator)]

    @answered
    def get(self, name: str) -> Any:
        """Raises UnknownJobError, and NameInUseError where it is not one of this project."""
        for operator in self.operators:
            try:
                job = self.api.get_namespaced_custom_object(*operator.where(self._namespace), name)
            except ApiException as error:
                if error.status != 404 or "page not found" in str(error.body):
                    raise
                continue
            if not are_ours(job["metadata"].get("labels")):
                raise NameInUseError(
                    f"the {operator.kind} {name} in {self._namespace} is not one of this project; choose another name"
                )
            return job
        raise UnknownJobError(f"no job {name!r} in {self._namespace}; everest-jobs list shows those there are")

    def create(self, manifest: Any, try_only: bool = False) -> Any:
        """A job, or what it needs, as it is in the cluster then; ``try_only``: whether that would take it.

        Raises ApiException.
        """
        tree = to_tree(manifest)
        more = {"dry_run": "All"} if try_only else {}
        return self.api.create_namespaced_custom_object(*self._where(tree), tree, **more)

    def put(self, manifest: Any) -> Any:
        """``create``, in place of what a killed submitter left. Raises NameInUseError where it is somebody else's."""
        try:
            return self.create(manifest)
        except ApiException as error:
            if not is_there_already(error):
                raise
        tree = to_tree(manifest)
        name = tree["metadata"]["name"]
        there = self.api.get_namespaced_custom_object(*self._where(tree), name)
        if not are_ours(there["metadata"].get("labels")):
            raise NameInUseError(
                f"the {tree['kind']} {name} in {self._namespace} is not one of this project; choose another --name"
            )
        self.delete(there)
        return self.create(manifest)

    def patch(self, there: Any, patch: Any) -> None:
        """A JSON merge patch. Raises ApiException."""
        self.api.patch_namespaced_custom_object(*self._where(there), there["metadata"]["name"], patch)

    def delete(self, there: Any) -> None:
        """That very job, and not one that has taken its name since. Raises NameInUseError."""
        name, uid = there["metadata"]["name"], there["metadata"]["uid"]
        policy = operator_of(there).propagation
        options = k8s.V1DeleteOptions(propagation_policy=policy, preconditions=k8s.V1Preconditions(uid=uid))
        try:
            self.api.delete_namespaced_custom_object(*self._where(there), name, body=options)
        except ApiException as error:
            if error.status == 409:
                raise NameInUseError(f"{name} was replaced by another job meanwhile; that one is left alone") from None
            if error.status != 404:
                raise

    def _of(self, operator: Operator) -> Sequence[Any]:
        where = operator.where(self._namespace)
        return list(self.api.list_namespaced_custom_object(*where, label_selector=OURS)["items"])

    def _where(self, tree: Any) -> tuple[str, str, str, str]:
        return operator_of(tree).where(self._namespace, tree["kind"])

    def _may_list(self, operator: Operator) -> bool:
        """Who may not has no jobs of that kind."""
        try:
            self.api.list_namespaced_custom_object(*operator.where(self._namespace), limit=1)
        except ApiException as error:
            if error.status != 403:
                raise
            return False
        return True

    def _has(self, operator: Operator) -> bool:
        try:
            found = self.api.get_api_resources(operator.group, operator.version).resources
        except ApiException as error:
            if error.status == 404:
                return False
            raise
        return any(each.name == operator.plurals[operator.kind] for each in found)
