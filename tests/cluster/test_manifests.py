"""A real API server accepts what is sent to it, and says what it does not like."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.platform import Platform, kubeconfig_of, require_operator
from tests.orchestration.cluster.test_manifest import CASES, GOLDEN, template_of


@pytest.mark.parametrize("name", CASES)
def test_the_api_server_accepts_every_approved_manifest(platform: Platform, tmp_path: Path, name: str) -> None:
    """A TrainJob is taken where its runtime is already; it is one reference to that."""
    all_of_it = list(yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text()))
    objects = [each for each in all_of_it if each["kind"] != "TrainJob"]
    require_operator("trainjob" if len(objects) < len(all_of_it) else "pytorchjob")
    for each in objects:
        each["metadata"]["namespace"] = platform.namespace
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))
    said = platform.kubectl("apply", "--dry-run=server", "-f", tmp_path / "all.yaml")
    first = {"PyTorchJob": "pytorchjob.kubeflow.org", "TrainingRuntime": "trainingruntime.trainer.kubeflow.org"}
    kinds = [first[objects[0]["kind"]], "configmap"]
    assert said.splitlines() == [f"{kind}/demo-pretrain created (server dry run)" for kind in kinds]


@pytest.fixture(scope="module")
def restricted(platform: Platform) -> Iterator[str]:
    name = f"{platform.namespace}-restricted"
    for command in (
        ["create", "namespace", name],
        ["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"],
    ):
        subprocess.run(["kubectl", *command], env=platform.environment, check=True, capture_output=True)
    yield name
    subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], env=platform.environment, check=False)


@pytest.mark.parametrize("name", [name for name in CASES if name != "no-gpus"])  # which mounts a path of the node
def test_pods_pass_the_restricted_security_standard(
    platform: Platform, restricted: str, tmp_path: Path, name: str
) -> None:
    template = template_of(list(yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text())))
    for of_another_cluster in ("serviceAccountName", "priorityClassName", "tolerations"):
        template["spec"].pop(of_another_cluster, None)
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "pod", "namespace": restricted}}
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    command = ["kubectl", "create", "--dry-run=server", "-f", str(tmp_path / "pod.json")]
    done = subprocess.run(command, env=platform.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pod["spec"]["containers"][0]["securityContext"] = {}
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    refused = subprocess.run(command, env=platform.environment, capture_output=True, text=True, check=False)
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_jobs_of_two_pods_get_no_container_that_the_standard_refuses(platform: Platform, restricted: str) -> None:
    """The operator adds one to jobs with a Master."""
    job = ["demo-pretrain", "--name", "strict", "--nodes", "2", "--gpus", "4"]
    done = platform.jobs("submit", *job, "--namespace", restricted, EVEREST_POD_PATCH="", EVEREST_DATA="")
    assert done.code == 0, done.err
    command = ["kubectl", "-n", restricted, "wait", "--for=create", "pod/strict-worker-1", "--timeout=300s"]
    created = subprocess.run(command, env=platform.environment, capture_output=True, text=True, check=False)
    assert created.returncode == 0, created.stderr
    assert platform.jobs("cancel", "strict", "--namespace", restricted).code == 0


def test_who_may_not_is_told_so_in_a_line(platform: Platform, tmp_path: Path) -> None:
    token = platform.kubectl("create", "token", "default").strip()
    allowed_nothing = kubeconfig_of(platform, token, tmp_path / "nothing")
    for command in (["submit", "demo-pretrain"], ["list"], ["status", "x"], ["logs", "x"], ["cancel", "x"]):
        done = platform.jobs(*command, KUBECONFIG=allowed_nothing)
        assert done.code == 1
        assert done.err.startswith("everest-jobs: the cluster does not allow it: pytorchjobs.kubeflow.org ")
        assert done.err.count("\n") == 1
    stranger = platform.jobs("list", KUBECONFIG=kubeconfig_of(platform, "expired", tmp_path / "stranger"))
    assert (stranger.code, stranger.err.count("\n")) == (1, 1)
    assert "does not know who you are; renew the login" in stranger.err


def test_no_cluster_no_namespace_and_no_job_are_lines(platform: Platform, tmp_path: Path) -> None:
    config = yaml.safe_load(Path(platform.environment["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "away").write_text(yaml.safe_dump(config))
    for settings, arguments, code, said in (
        ({"KUBECONFIG": str(tmp_path / "away")}, ["list"], 1, "the cluster does not answer: "),
        ({"KUBECONFIG": "/nowhere"}, ["list"], 2, "no cluster: "),
        ({}, ["list", "--context", "nobody"], 2, "no cluster: "),
        ({}, ["submit", "demo-pretrain", "--namespace", "nowhere"], 1, 'refuses (404): namespaces "nowhere" not found'),
        ({}, ["status", "nobody"], 2, "no job 'nobody' in everest-"),
        ({"EVEREST_S3_BUCKET": "no-such-bucket"}, ["submit", "demo-pretrain"], 2, "has no such bucket"),
        ({"EVEREST_MLFLOW_URI": "http://localhost:5"}, ["submit", "demo-pretrain", "--dry-run"], 2, "the pod itself"),
        ({}, ["submit", "no-recipe"], 2, "no recipe 'no-recipe'"),
        ({}, ["list", "extra"], 2, "unknown argument 'extra'"),
        ({}, ["list", "--gpus", "many"], 2, "EVEREST_GPUS (--gpus) = 'many': "),
    ):  # fmt: skip
        done = platform.jobs(*arguments, **settings)
        assert done.code == code, done.err
        assert said in done.err
        assert done.err.startswith("everest-jobs: ")
        assert done.err.count("\n") == 1, done.err
