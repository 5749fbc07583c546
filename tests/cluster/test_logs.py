"""Logs of a real cluster, read over a connection that is cut."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as k8s
from kubernetes import config

from everest.config import Experiment
from everest.errors import UsageError
from orchestration.cluster.launcher import KubernetesLauncher
from orchestration.cluster.logs import PodLogs, Said
from orchestration.cluster.pytorchjob import PyTorchJobs
from orchestration.job import JobSpec, LogsMissing, Unreachable
from orchestration.log import Wanted
from orchestration.settings import PlatformSettings
from tests.cluster.platform import host_folders
from tests.services import Link, until

LINES = 160
SAY = f"for i in $(seq {LINES}); do echo said $i; echo said too $i; sleep 0.1; done; printf 'the end'"


@pytest.fixture(scope="module")
def namespace(kubeconfig: str) -> Iterator[str]:
    name = f"everest-{uuid.uuid4().hex[:8]}"
    subprocess.run(["kubectl", "create", "namespace", name], check=True, capture_output=True)
    yield name
    subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], check=True, capture_output=True)


@pytest.fixture
def link(kubeconfig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """To the API server; KUBECONFIG leads over it."""
    settings = yaml.safe_load(Path(kubeconfig).read_text())
    made = Link(settings["clusters"][0]["cluster"]["server"])
    settings["clusters"][0]["cluster"]["server"] = made.address.replace("http:", "https:")
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield made
    made.close()


def pod(namespace: str, command: str) -> str:
    folders = host_folders()
    name = f"says-{uuid.uuid4().hex[:6]}"
    container = k8s.V1Container(
        name="says", image="localhost/host:1", command=["/usr/bin/bash", "-c", command],
        env=[k8s.V1EnvVar("PATH", "/usr/bin")],
        volume_mounts=[k8s.V1VolumeMount(name="usr", mount_path="/usr", read_only=True)],
    )  # fmt: skip
    volume = k8s.V1Volume(name="usr", host_path=k8s.V1HostPathVolumeSource(path=str(folders["usr"])))
    spec = k8s.V1PodSpec(containers=[container], volumes=[volume], restart_policy="Never")
    k8s.CoreV1Api().create_namespaced_pod(namespace, k8s.V1Pod(metadata=k8s.V1ObjectMeta(name=name), spec=spec))
    return name


class Says(PyTorchJobs):
    """Pods whose container has another name."""

    container = "says"


def reader(namespace: str, ended: Callable[[Any], bool]) -> PodLogs:
    core = k8s.CoreV1Api(config.new_client_from_config(os.environ["KUBECONFIG"]))
    return PodLogs(core, namespace, Says(), lambda: ended(core))


def texts(lines: Iterable[Said]) -> list[str]:
    return [line.text for line in lines]


def test_no_line_is_lost_or_said_twice_where_the_connection_is_cut_again_and_again(
    namespace: str, kubeconfig: str, link: Link
) -> None:
    config.load_kube_config(kubeconfig)
    name = pod(namespace, SAY)

    def ended(core: Any) -> bool:
        return bool(core.read_namespaced_pod(name, namespace).status.phase == "Succeeded")

    logs = reader(namespace, ended)
    found = []
    for line in logs.lines([name], follow=True, last=None):
        found.append(line.text)
        if len(found) in {20, 90, 91, 180}:
            link.cut()
            time.sleep(2)
            link.mend()
    assert found == [line for i in range(1, LINES + 1) for line in (f"said {i}", f"said too {i}")] + ["the end"]
    assert texts(logs.lines([name], follow=False, last=2)) == [f"said too {LINES}", "the end"]

    link.cut()
    with pytest.raises(Unreachable, match="the cluster does not answer"):
        list(logs.lines([name], follow=False, last=None))
    link.mend()
    with pytest.raises(LogsMissing, match=r"there is no pod says-none: it is deleted, and its lines with it"):
        list(logs.lines(["says-none", name], follow=True, last=1))


def test_the_last_lines_of_several_pods_come_in_the_order_they_were_said_though_one_is_gone(
    namespace: str, kubeconfig: str
) -> None:
    config.load_kube_config(kubeconfig)
    first = pod(namespace, "echo one; sleep 8; echo three")
    core = k8s.CoreV1Api()
    until(lambda: core.read_namespaced_pod(first, namespace).status.phase == "Running", "the first")
    second = pod(namespace, "echo two")

    def ended(core: Any) -> bool:
        phases = [core.read_namespaced_pod(name, namespace).status.phase for name in (first, second)]
        return phases == ["Succeeded"] * 2

    logs = reader(namespace, ended)
    until(lambda: ended(logs.core), "their end")
    assert texts(logs.lines([first, "says-none", second], False, 5, some_may_lack=True)) == ["one", "two", "three"]
    found = logs.lines([first, "says-none", second], False, 5)
    assert [next(found).text for _ in range(3)] == ["one", "two", "three"]
    with pytest.raises(LogsMissing, match="there is no pod says-none"):
        next(found)
    with pytest.raises(LogsMissing, match="there is no pod says-none"):
        list(logs.lines(["says-none"], False, 5, some_may_lack=True))


def test_who_follows_gives_up_after_a_while_and_at_once_where_it_cannot_pass(
    namespace: str, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = reader(namespace, lambda core: bool(core.list_namespace() and False))
    link.cut()
    monkeypatch.setattr("orchestration.cluster.logs.SILENT_S", 3.0)
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        list(logs.lines(["says-none"], follow=True, last=None))
    assert time.monotonic() - begun > 3

    def ended(_: Any) -> bool:
        raise UsageError("no cluster: none")

    with pytest.raises(UsageError, match="no cluster: none"):
        list(reader(namespace, ended).lines(["says-none"], follow=True, last=None))


@pytest.mark.filterwarnings("ignore")
def test_a_rank_that_a_job_does_not_have_and_a_pod_that_has_not_begun_are_said(namespace: str, kubeconfig: str) -> None:
    settings = PlatformSettings(
        namespace=namespace, gpus=64, nodes="2", s3_bucket="everest", mlflow_uri="http://mlflow:5000"
    )
    jobs = KubernetesLauncher(settings)
    many = {"optim.batch_size": 128, "optim.micro_batch": 1, "data.repeats": 1}
    jobs.submit(JobSpec(Experiment.load("demo-pretrain").override({"name": "large", "data.train": "/data", **many})))
    for rank in (128, -1):
        with pytest.raises(UsageError, match=f"--rank {rank}: large has the ranks 0 to 127"):
            list(jobs.logs("large", Wanted(rank)))
    pods = jobs._core.list_namespaced_pod
    until(lambda: len(pods(namespace, label_selector="training.kubeflow.org/job-name=large").items) == 2, "pods")
    with pytest.raises(LogsMissing, match=r"the pod large-worker-0 has not begun; .*; the pod large-worker-1 has not"):
        list(jobs.logs("large"))
    jobs.cancel("large")
