"""Why a job waits, from workloads as Kueue 0.17 shows them."""

from typing import Any

import pytest

from orchestration.cluster.queue import why_waiting

LACKS = (
    "couldn't assign flavors to pod set worker: insufficient unused quota for nvidia.com/gpu in flavor h, 8 more needed"
)


def workload(
    job: str, created: str, priority: int = 0, queue: str = "gpus", lack: str = LACKS, **conditions: bool
) -> dict[str, Any]:
    reserved = {"type": "QuotaReserved", "status": "False", "message": lack}
    more = [{"type": name, "status": str(holds), "message": ""} for name, holds in conditions.items()]
    if any(each["type"] == "QuotaReserved" for each in more):
        reserved["status"], more = "True", []
    return {
        "metadata": {
            "name": f"job-{job}",
            "creationTimestamp": f"2026-01-01T00:00:{created}Z",
            "labels": {"kueue.x-k8s.io/job-uid": job},
        },
        "spec": {"priority": priority, "queueName": queue},
        "status": {"conditions": [reserved, *more]},
    }


LINE = [
    workload("late", "30"),
    workload("early", "10"),
    workload("urgent", "40", priority=1000),
    workload("works", "01", QuotaReserved=True),
    workload("elsewhere", "02", queue="other"),
    workload("done", "03", Finished=True),
    workload("was-there", "05", Preempted=True, Evicted=True),
]
LACK = ": insufficient unused quota for nvidia.com/gpu in flavor h, 8 more needed"


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("urgent", f"place 1 of 4 in the queue gpus{LACK}"),
        ("was-there", f"place 2 of 4 in the queue gpus, preempted by another job{LACK}"),
        ("early", f"place 3 of 4 in the queue gpus{LACK}"),
        ("late", f"place 4 of 4 in the queue gpus{LACK}"),
        ("unknown", "waits in the queue gpus"),
    ],
)
def test_a_place_is_by_priority_and_then_by_age_among_those_that_wait(job: str, said: str) -> None:
    assert why_waiting(LINE, job, "gpus") == said


def test_what_kueue_says_otherwise_is_handed_on_whole() -> None:
    lost = workload("lost", "01", queue="nowhere", lack="LocalQueue nowhere doesn't exist")
    assert (
        why_waiting([lost], "lost", "nowhere") == "place 1 of 1 in the queue nowhere: LocalQueue nowhere doesn't exist"
    )
    fresh = workload("fresh", "01", lack="")
    assert why_waiting([fresh], "fresh", "gpus") == "place 1 of 1 in the queue gpus"
