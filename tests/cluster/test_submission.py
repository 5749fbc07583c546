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
from orchestration.cluster.manifest import EXPERIMENT_KEY, Manifest, manifest
from orchestration.job import JobSpec, NameInUseError
from orchestration.settings import PlatformSettings
from tests.cluster.platform import require_operator, run
from tests.services import until

pytestmark = pytest.mark.filterwarnings("ignore")
NAME = "way"


@pytest.fixture(scope="module", params=["pytorchjob", "trainjob"])
def jobs(kubeconfig: str, request: pytest.FixtureRequest) -> Iterator[KubernetesLauncher]:
    """Of jobs that no node has room for."""
    require_operator(request.param)
    namespace = f"everest-{uuid.uuid4().hex[:8]}"
    subprocess.run(["kubectl", "create", "namespace", namespace], check=True, capture_output=True)
    yield KubernetesLauncher(
        PlatformSettings(
            namespace=namespace, operator=request.param, gpus=64, s3_bucket="everest", mlflow_uri="http://mlflow:5000"
        )
    )
    subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait=false"], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _empty(jobs: KubernetesLauncher) -> Iterator[None]:
    yield
    api = jobs._jobs.api
    api.delete_collection_namespaced_custom_object(*where(jobs))
    until(lambda: not api.list_namespaced_custom_object(*where(jobs))["items"], "jobs to go")
    jobs._core.delete_collection_namespaced_config_map(jobs.namespace, label_selector="app.kubernetes.io/part-of")


def spec(**changes: object) -> JobSpec:
    fixed = {"name": NAME, "data.train": "/data", "optim.micro_batch": 1, "data.repeats": 1}
    return JobSpec(Experiment.load("demo-pretrain").override(fixed | changes))


def where(jobs: KubernetesLauncher) -> tuple[str, str, str, str]:
    return jobs._jobs.operators[0].where(jobs.namespace)


def job(jobs: KubernetesLauncher) -> Any:
    return jobs._jobs.api.get_namespaced_custom_object(*where(jobs), NAME)


def left(jobs: KubernetesLauncher) -> list[str]:
    """Of the project."""
    kinds = "configmaps,trainingruntimes,jobsets" if where(jobs)[3] == "trainjobs" else "configmaps"
    words = ["get", kinds, "-n", jobs.namespace, "-l", "app.kubernetes.io/part-of=everest", "-o", "name"]
    return run("kubectl", *words).out.split()


def made(jobs: KubernetesLauncher, what: JobSpec) -> Manifest:
    return manifest(what, jobs.settings, jobs._jobs.operators[0])


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
    more = {"replicaStatuses": {"Worker": {}}} if where(jobs)[3] == "pytorchjobs" else {}
    status = {"status": {"conditions": [condition], **more}}
    jobs._jobs.api.patch_namespaced_custom_object_status(*where(jobs), NAME, status)


def test_a_submission_killed_before_its_job_is_taken_up_by_the_next_and_one_after_it_is_mended(
    jobs: KubernetesLauncher,
) -> None:
    jobs._core.create_namespaced_config_map(jobs.namespace, made(jobs, spec()).config)
    for each in made(jobs, spec(**{"keep.log_steps": 7})).needed:
        jobs._jobs.put(each)  # killed here
    jobs.submit(spec())
    uid = job(jobs)["metadata"]["uid"]
    assert [owner.uid for owner in config_map(jobs).metadata.owner_references] == [uid]

    jobs._core.delete_namespaced_config_map(NAME, jobs.namespace)
    jobs.mend(spec())
    assert [owner.uid for owner in config_map(jobs).metadata.owner_references] == [uid]
    assert job(jobs)["metadata"]["uid"] == uid

    jobs.cancel(NAME)
    until(lambda: not jobs.list(), "the job to go")
    until(lambda: not left(jobs), "its ConfigMap and all that was made for it to go")


def test_what_another_submission_left_is_replaced_unless_it_may_be_under_way(
    jobs: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from orchestration.cluster import submission

    jobs._core.create_namespaced_config_map(jobs.namespace, made(jobs, spec(**{"optim.steps": 7})).config)
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
        jobs._jobs.create(made)

    monkeypatch.setattr(jobs._jobs, "create", meanwhile)
    with pytest.raises(NameInUseError, match=r"way was submitted to .* by somebody else at this moment"):
        jobs.submit(spec())
    assert config_map(jobs).metadata.owner_references[0].uid == job(jobs)["metadata"]["uid"]


def test_a_removal_means_the_very_job_it_was_asked_for(jobs: KubernetesLauncher) -> None:
    jobs.submit(spec())
    stale = job(jobs)
    stale["metadata"]["uid"] = str(uuid.uuid4())
    with pytest.raises(NameInUseError, match="way was replaced by another job meanwhile; that one is left alone"):
        jobs._jobs.delete(stale)
    assert "deletionTimestamp" not in job(jobs)["metadata"]


def test_a_finished_job_stays_where_the_one_after_it_is_refused(jobs: KubernetesLauncher) -> None:
    jobs.submit(spec())
    end(jobs, "Succeeded" if where(jobs)[3] == "pytorchjobs" else "Complete")
    uid = job(jobs)["metadata"]["uid"]
    with pytest.raises(UsageError, match=r"way \(finished\) was begun with other settings \(optim.lr"):
        jobs.submit(spec(**{"optim.lr": 0.5}))
    quota = k8s.V1ResourceQuota(
        metadata=k8s.V1ObjectMeta(name="none"),
        spec=k8s.V1ResourceQuotaSpec(hard={f"count/{where(jobs)[3]}.{where(jobs)[0]}": "0"}),
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
