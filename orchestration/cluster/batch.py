"""Jobs of Kubernetes itself: a sweep's controller, and the parts of a packing."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from everest.errors import EverestError
from orchestration.cluster.errors import answered
from orchestration.cluster.manifest import CODE_DIGEST
from orchestration.job import NameInUseError, Needs, UnknownJobError

#: Sweeps' controllers: how they are labelled, and where it is noted what their trials begin from.
CONTROLLER = {"app.kubernetes.io/component": "sweep", "app.kubernetes.io/part-of": "everest"}
CONTROLLERS = ",".join(f"{key}={value}" for key, value in CONTROLLER.items())  # as a selector
INITS = "everest/inits"
_GONE_S = 60


class Parts(NamedTuple):
    """How far an indexed Job is."""

    done: int
    running: int
    of: int
    failed: str  # why it failed: a sentence, or nothing


class BatchJobs:
    def __init__(self, core: k8s.CoreV1Api, namespace: str) -> None:
        self._core, self._namespace = core, namespace
        self._batch = k8s.BatchV1Api(core.api_client)

    @answered
    def run(self, job: dict[str, Any], needed: Sequence[dict[str, Any]] = ()) -> None:
        """Starts it, in place of one of that name that ended, with what it needs, which goes with it.

        Raises NameInUseError while one is at work.
        """
        name = job["metadata"]["name"]
        self._remove_ended(name)
        self._apply(needed)
        made = self._batch.create_namespaced_job(self._namespace, job)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": made.metadata.uid}
        self._apply([{**each, "metadata": {**each["metadata"], "ownerReferences": [owner]}} for each in needed])

    def needs(self) -> dict[str, Needs]:
        """Of sweeps' controllers that have not ended, whose jobs may not be there yet."""
        found = self._batch.list_namespaced_job(self._namespace, label_selector=CONTROLLERS)
        noted = {job.metadata.name: job.metadata.annotations or {} for job in found.items if not _ended(job)}
        return {name: Needs(each.get(INITS, "").split(), each.get(CODE_DIGEST, "")) for name, each in noted.items()}

    @answered
    def parts(self, name: str) -> Parts:
        """Raises UnknownJobError."""
        job = self._job(name)
        if job is None:
            raise UnknownJobError(f"the Job {name} is not in {self._namespace} any more")
        failed = [each for each in job.status.conditions or [] if each.type == "Failed" and each.status == "True"]
        why = f"{failed[0].message}; {self._last_words(name)}" if failed else ""
        return Parts(job.status.succeeded or 0, job.status.active or 0, job.spec.completions, why)

    def _last_words(self, name: str) -> str:
        """Of a pod that failed."""
        pods = self._core.list_namespaced_pod(self._namespace, label_selector=f"batch.kubernetes.io/job-name={name}")
        for pod in pods.items:
            if pod.status.phase == "Failed":
                said = str(self._core.read_namespaced_pod_log(pod.metadata.name, self._namespace, tail_lines=1)).strip()
                return f"{pod.metadata.name} said last: {said or 'nothing'}"
        return f"kubectl -n {self._namespace} describe job {name} says more"

    def _remove_ended(self, name: str) -> None:
        there = self._job(name)
        if there is None:
            return
        if not _ended(there):
            raise NameInUseError(f"the Job {name} is at work in {self._namespace} already")
        self._batch.delete_namespaced_job(name, self._namespace, propagation_policy="Foreground")
        deadline = time.monotonic() + _GONE_S
        while self._job(name) is not None:
            if time.monotonic() > deadline:
                raise EverestError(f"{name} is being removed from {self._namespace} for {_GONE_S} s and is still there")
            time.sleep(0.5)

    def _job(self, name: str) -> Any:
        try:
            return self._batch.read_namespaced_job(name, self._namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _apply(self, objects: Sequence[dict[str, Any]]) -> None:
        if not objects:
            return
        dynamic = DynamicClient(self._core.api_client)
        for each in objects:
            kind = dynamic.resources.get(api_version=each["apiVersion"], kind=each["kind"])
            kind.server_side_apply(
                body=each, name=each["metadata"]["name"], namespace=self._namespace, field_manager="everest-sweep",
                force_conflicts=True,
            )  # fmt: skip


def _ended(job: Any) -> bool:
    conditions = job.status.conditions or []
    return any(each.status == "True" and each.type in {"Complete", "Failed"} for each in conditions)
