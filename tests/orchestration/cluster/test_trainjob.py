"""TrainJobs and their pods as Trainer 2.3 shows them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes import client as k8s

from everest.errors import UsageError
from orchestration.cluster.trainjob import TrainJobs
from tests.orchestration.cluster.test_manifest import SPEC, manifest_of

JOBS = TrainJobs()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def condition(kind: str, status: str = "True", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "message": message, "lastTransitionTime": NOW.isoformat()}


def job(*conditions: dict[str, str], suspend: bool = False, **counts: int) -> dict[str, Any]:
    counted = {"name": "node", "active": 0, "ready": 0, "succeeded": 0, "failed": 0, "suspended": 0} | counts
    return {
        "kind": "TrainJob",
        "metadata": {"name": "run", "annotations": {"everest/ttl-s": "60"}},
        "spec": {"suspend": suspend, "trainer": {"numNodes": 2, "numProcPerNode": 8}},
        "status": {"conditions": list(conditions), "jobsStatus": [counted] if counts else []},
    }


@pytest.mark.parametrize(
    ("there", "state"),
    [
        ({**job(), "status": {}}, "pending"),
        (job(active=1), "pending"),
        (job(active=1, ready=1), "running"),
        (job(condition("Suspended"), suspend=True, suspended=1), "suspended"),
        (job(condition("Suspended", "False"), active=1, ready=1), "running"),
        (job(condition("Suspended", "False"), condition("Complete"), succeeded=1), "succeeded"),
        (job(condition("Failed", message="jobset failed"), failed=1), "failed"),
    ],
)
def test_a_state_is_what_the_conditions_and_the_counts_say(there: dict[str, Any], state: str) -> None:
    assert JOBS.state_of(there) == state
    there["metadata"]["deletionTimestamp"] = NOW.isoformat()
    assert JOBS.state_of(there) == "cancelling"


def test_a_job_that_nobody_has_seen_is_told_from_one_without_pods() -> None:
    unseen = {**job(), "status": {}}
    assert (JOBS.taken_up(unseen), JOBS.had_pods(unseen)) == (False, False)
    assert (JOBS.taken_up(job(active=1)), JOBS.had_pods(job(active=1))) == (True, False)
    assert JOBS.had_pods(job(failed=1))


def pod(index: int, age_s: float, name: str) -> k8s.V1Pod:
    labels = {"batch.kubernetes.io/job-completion-index": str(index)}
    created = NOW - timedelta(seconds=age_s)
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name=name, labels=labels, creation_timestamp=created),
        status=k8s.V1PodStatus(start_time=created),
    )


def test_a_pod_that_ended_and_stays_is_not_one_of_those_that_work() -> None:
    old, new, other = pod(1, 50, "old"), pod(1, 10, "new"), pod(0, 51, "other")
    team = JOBS.team(job(), [new, other, old])
    assert ([each.metadata.name for each in team.pods], team.replaced) == (["other", "new"], True)
    assert not JOBS.team(job(), [new, other]).replaced
    assert JOBS.started(job(), [new, other, old]) == NOW - timedelta(seconds=51)


def test_a_job_stays_as_long_as_it_was_asked_to_once_it_has_ended() -> None:
    ended = job(condition("Complete"))
    assert not JOBS.outlived(ended, NOW + timedelta(seconds=59))
    assert JOBS.outlived(ended, NOW + timedelta(seconds=61))
    assert not JOBS.outlived(job(active=1), NOW + timedelta(days=9))


def test_events_of_the_job_its_parts_and_its_pods_are_told_from_another_jobs() -> None:
    ours = JOBS.told_of("run")
    assert all(map(ours.fullmatch, ("run", "run-node-0", "run-node-0-0-x7k2p", "run-node-0-11-abcde")))
    assert not any(map(ours.fullmatch, ("run-2", "run-node", "run-2-node-0-0-x7k2p", "other-node-0")))


def test_a_number_of_pods_that_changes_is_refused_with_who_can_do_it() -> None:
    with pytest.raises(UsageError, match=r"EVEREST_NODES .*2\.\.4: a TrainJob has one .*EVEREST_OPERATOR .*pytorchjob"):
        manifest_of(SPEC, s3_bucket="videos", nodes="2..4", operator="trainjob")
