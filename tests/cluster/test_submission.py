"""Jobs on their way into a real cluster: submitters that are killed, that meet, and that are refused. No pod runs."""

import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client as k8s

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from orchestration.cluster.launcher import KubernetesLauncher
from orchestration.cluster.manifest import EXPERIMENT_KEY, PYTORCHJOBS, manifest
from orchestration.job import JobSpec, NameInUseError
from orchestration.settings import PlatformSettings
from tests.services import until

pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "way"


@pytest.fixture(scope="module")
def jobs(kubeconfig: str) -> Iterator[KubernetesLauncher]:
    """Of jobs that no node has room for."""
    namespace = f"everest-{uuid.uuid4().hex[:8]}"
    subprocess.run(["kubectl", "create", "namespace", namespace], check=True, capture_output=True)
    yield KubernetesLauncher(
        PlatformSettings(namespace=namespace, gpus=64, s3_bucket="everest", mlflow_uri="http://mlflow:5000")
    )
    subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait=false"], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _empty(jobs: KubernetesLauncher) -> Iterator[None]:
    yield
    where = PYTORCHJOBS[0], PYTORCHJOBS[1], jobs.namespace
    jobs._custom.delete_collection_namespaced_custom_object(*where, "pytorchjobs")
    until(lambda: not jobs._custom.list_namespaced_custom_object(*where, "pytorchjobs")["items"], "jobs to go")
    jobs._core.delete_collection_namespaced_config_map(jobs.namespace, label_selector="app.kubernetes.io/part-of")


def spec(**changes: object) -> JobSpec:
    fixed = {"name": NAME, "data.train": "/data", "optim.micro_batch": 1, "data.repeats": 1}
    return JobSpec(Experiment.load("demo-pretrain").override(fixed | changes))


def job(jobs: KubernetesLauncher) -> Any:
    return jobs._custom.get_namespaced_custom_object(*PYTORCHJOBS, jobs.namespace, "pytorchjobs", NAME)


def config_map(jobs: KubernetesLauncher) -> Any:
    return jobs._core.read_namespaced_config_map(NAME, jobs.namespace)


def steps(jobs: KubernetesLauncher) -> Any:
    import yaml

    return Experiment.parse(yaml.safe_load(config_map(jobs).data[EXPERIMENT_KEY])).optim.steps


def end(jobs: KubernetesLauncher, kind: str) -> None:
    """As the operator says it."""
    condition = {
        "type": kind,
        "status": "True",
        "reason": "Test",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    jobs._custom.patch_namespaced_custom_object_status(
        *PYTORCHJOBS, jobs.namespace, "pytorchjobs", NAME,
        {"status": {"conditions": [condition], "replicaStatuses": {"Worker": {}}}},
    )  # fmt: skip


def test_a_submission_killed_before_its_job_is_taken_up_by_the_next_and_one_after_it_is_mended(
    jobs: KubernetesLauncher,
) -> None:
    _, config = manifest(spec(), jobs.settings)
    jobs._core.create_namespaced_config_map(jobs.namespace, config)  # killed here
    jobs.submit(spec())
    uid = job(jobs)["metadata"]["uid"]
    assert [owner.uid for owner in config_map(jobs).metadata.owner_references] == [uid]

    jobs._core.delete_namespaced_config_map(NAME, jobs.namespace)
    jobs.mend(spec())
    assert [owner.uid for owner in config_map(jobs).metadata.owner_references] == [uid]
    assert job(jobs)["metadata"]["uid"] == uid

    jobs.cancel(NAME)
    until(lambda: not jobs.list(), "the job to go")
    ours = {"namespace": jobs.namespace, "label_selector": "app.kubernetes.io/part-of"}
    until(lambda: not jobs._core.list_namespaced_config_map(**ours).items, "its ConfigMap to go")


def test_what_another_submission_left_is_replaced_unless_it_may_be_under_way(
    jobs: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from orchestration.cluster import submission

    jobs._core.create_namespaced_config_map(jobs.namespace, manifest(spec(**{"optim.steps": 7}), jobs.settings)[1])
    with pytest.raises(NameInUseError, match=r"way is being submitted to .* by somebody else"):
        jobs.submit(spec(**{"optim.steps": 8}))
    assert steps(jobs) == 7
    monkeypatch.setattr(submission, "_UNDER_WAY", timedelta(0))
    jobs.submit(spec(**{"optim.steps": 8}))
    assert steps(jobs) == 8


def test_a_job_that_another_made_in_the_same_moment_keeps_the_name(
    jobs: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = KubernetesLauncher(jobs.settings)

    def meanwhile(made: Any, **_: object) -> None:
        monkeypatch.undo()
        other.submit(spec())
        jobs._training.create_job(made)

    monkeypatch.setattr(jobs._training, "create_job", meanwhile)
    with pytest.raises(NameInUseError, match=r"way was submitted to .* by somebody else at this moment"):
        jobs.submit(spec())
    assert config_map(jobs).metadata.owner_references[0].uid == job(jobs)["metadata"]["uid"]


def test_a_removal_means_the_very_job_it_was_asked_for(jobs: KubernetesLauncher) -> None:
    jobs.submit(spec())
    stale = job(jobs)
    stale["metadata"]["uid"] = str(uuid.uuid4())
    with pytest.raises(NameInUseError, match="way was replaced by another job meanwhile; that one is left alone"):
        jobs._submissions.delete(stale)
    assert "deletionTimestamp" not in job(jobs)["metadata"]


def test_a_finished_job_stays_where_the_one_after_it_is_refused(jobs: KubernetesLauncher) -> None:
    jobs.submit(spec())
    end(jobs, "Succeeded")
    uid = job(jobs)["metadata"]["uid"]
    with pytest.raises(UsageError, match=r"way \(finished\) was begun with other settings \(optim.lr"):
        jobs.submit(spec(**{"optim.lr": 0.5}))
    quota = k8s.V1ResourceQuota(
        metadata=k8s.V1ObjectMeta(name="none"),
        spec=k8s.V1ResourceQuotaSpec(hard={"count/pytorchjobs.kubeflow.org": "0"}),
    )
    jobs._core.create_namespaced_resource_quota(jobs.namespace, quota)
    try:
        until(lambda: jobs._core.read_namespaced_resource_quota("none", jobs.namespace).status.hard, "the quota")
        with pytest.raises(EverestError, match="exceeded quota"):
            jobs.submit(spec())
    finally:
        jobs._core.delete_namespaced_resource_quota("none", jobs.namespace)
    assert job(jobs)["metadata"]["uid"] == uid
    jobs.submit(spec(**{"keep.log_steps": 3}))
    assert job(jobs)["metadata"]["uid"] != uid


def test_what_is_not_of_this_project_is_left_alone(jobs: KubernetesLauncher) -> None:
    foreign = k8s.V1ConfigMap(metadata=k8s.V1ObjectMeta(name=NAME), data={"a": "b"})
    jobs._core.create_namespaced_config_map(jobs.namespace, foreign)
    try:
        with pytest.raises(NameInUseError, match=r"the ConfigMap way in .* is not one of this project"):
            jobs.submit(spec())
        assert config_map(jobs).data == {"a": "b"}
        assert not jobs.list()
    finally:
        jobs._core.delete_namespaced_config_map(NAME, jobs.namespace)
