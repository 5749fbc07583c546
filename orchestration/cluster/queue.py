"""What Kueue says of jobs that wait in its queues: their places, and why they wait."""

from collections.abc import Sequence
from typing import Any

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from orchestration.cluster.operator import conditions, true_conditions

QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"  # labels of a job
_JOB = "kueue.x-k8s.io/job-uid"  # label of a workload
_WORKLOADS = ("kueue.x-k8s.io", "v1beta2")


def workloads_of(api: k8s.CustomObjectsApi, namespace: str) -> Sequence[Any]:
    """As the API server has them; none where one may not see them."""
    try:
        return list(api.list_namespaced_custom_object(*_WORKLOADS, namespace, "workloads")["items"])
    except ApiException as error:
        if error.status not in {403, 404}:
            raise
        return []


def why_suspended(job: Any, workloads: Sequence[Any]) -> str:
    """A sentence; ``job`` is as the API server has it."""
    queue = job["metadata"].get("labels", {}).get(QUEUE)
    return why_waiting(workloads, job["metadata"]["uid"], queue) if queue else "suspended"


def why_waiting(workloads: Sequence[Any], job_uid: str, queue: str) -> str:
    """A sentence; ``workloads``: those of the namespace."""
    line = sorted((each for each in workloads if _waits(each, queue)), key=_turn)
    place = next((number for number, each in enumerate(line, 1) if _job_of(each) == job_uid), None)
    if place is None:
        return f"waits in the queue {queue}"
    ours = line[place - 1]
    preempted = ", preempted by another job" if "Preempted" in _true(ours) else ""
    why = next((str(each.get("message", "")) for each in conditions(ours) if each["type"] == "QuotaReserved"), "")
    why = " ".join(why.split()).rpartition("pod set ")[2].partition(": ")[2] or why
    return f"place {place} of {len(line)} in the queue {queue}{preempted}" + (f": {why}" if why else "")


def _waits(workload: Any, queue: str) -> bool:
    return workload["spec"].get("queueName") == queue and not {"QuotaReserved", "Finished"} & _true(workload)


def _turn(workload: Any) -> tuple[int, str, str]:
    """Whom Kueue asks first comes first: by priority, then by age."""
    metadata = workload["metadata"]
    return -int(workload["spec"].get("priority") or 0), metadata["creationTimestamp"], metadata["name"]


def _job_of(workload: Any) -> str:
    return str(workload["metadata"].get("labels", {}).get(_JOB, ""))


def _true(workload: Any) -> set[str]:
    return {each["type"] for each in true_conditions(workload)}
