"""Manifests as they were looked at and approved.

``python -m tests.orchestration.cluster.test_manifest`` writes them anew.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from everest.config import Experiment
from everest.errors import UsageError
from orchestration.cluster.jobs import OPERATORS
from orchestration.cluster.manifest import Manifest, manifest
from orchestration.cluster.pods import to_yaml
from orchestration.job import EXPERIMENT_FILE, JobSpec
from orchestration.settings import PlatformSettings
from tests.test_docs import ROOT

GOLDEN = Path(__file__).parent / "manifests"
EXPERIMENT = Experiment.load("demo-pretrain").override({"optim.micro_batch": 2})  # for up to 32 processes
SPEC = JobSpec(EXPERIMENT, commit="0123456789abcdef0123456789abcdef01234567", submission="s1", submitted=1764223200)

CASES: dict[str, dict[str, Any]] = {
    "plain": {"s3_bucket": "videos"},
    "everything": {
        "namespace": "lab", "image": "registry.example.org/everest@sha256:" + "0" * 64, "pull_secret": "registry",
        "service_account": "everest-job", "nodes": "4", "cpu": "64", "memory": "500Gi", "shm": "64Gi",
        "data": "pvc:videos",
        "priority_class": "research", "queue": "gpus", "queue_priority": "urgent",
        "ttl_s": 3600, "deadline_s": 86400, "backoff_limit": 1,
        "grace_s": 120, "s3_endpoint": "https://s3.example.org", "s3_bucket": "videos", "s3_prefix": "lab/everest",
        "s3_secret": "s3", "mlflow_uri": "https://mlflow.example.org", "mlflow_secret": "mlflow",
        "notify_secret": "slack",
        "pod_patch": GOLDEN / "patch.yaml",
    },
    "elastic": {"s3_bucket": "videos", "nodes": "2..4", "processes": 1, "grace_s": 60},
    "trainjob": {"s3_bucket": "videos", "operator": "trainjob"},
    "no-gpus": {"s3_bucket": "videos", "gpus": 0, "processes": 2, "cpu": "2500m", "data": "/srv/videos"},
}  # fmt: skip
CASES["trainjob-everything"] = CASES["everything"] | {"operator": "trainjob"}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in PlatformSettings.model_fields:
        monkeypatch.delenv(f"EVEREST_{name.upper()}", raising=False)


def made(name: str, **more: Any) -> str:
    needed, job, config = manifest_of(SPEC, **{"user": "ada"} | CASES[name] | more)
    return to_yaml(*needed, job, config)


def manifest_of(spec: JobSpec, **settings: Any) -> Manifest:
    """PyTorchJobs, unless the settings say otherwise."""
    found = PlatformSettings(**{"operator": "pytorchjob"} | settings)
    (operator,) = [each for each in OPERATORS if each.setting == found.operator]
    return manifest(spec, found, operator)


def template_of(objects: list[Any]) -> Any:
    """The pods' of a manifest."""
    first = objects[0]["spec"]
    if objects[0]["kind"] == "PyTorchJob":
        return first["pytorchReplicaSpecs"]["Worker"]["template"]
    return first["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_is_the_one_that_was_approved(name: str) -> None:
    assert made(name) == (GOLDEN / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_config_map_holds_the_experiment_whole_under_the_path_that_the_worker_reads(name: str) -> None:
    objects = list(yaml.safe_load_all(made(name)))
    assert Experiment.parse(yaml.safe_load(objects[-1]["data"]["experiment.yaml"])) == SPEC.experiment
    pod = template_of(objects)["spec"]
    (volume,) = [each["name"] for each in pod["volumes"] if "configMap" in each]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert f"{mounts[volume]}/experiment.yaml" == EXPERIMENT_FILE


def test_secrets_are_only_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-value")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-secret-value")
    text = made("everything")
    assert "a-secret-value" not in text
    assert "secretRef" in text


def test_pods_are_told_the_addresses_that_pods_reach() -> None:
    here = {"mlflow_uri": "http://127.0.0.1:5000", "s3_endpoint": "http://127.0.0.1:7070"}
    there = {"pod_mlflow_uri": "http://everest-mlflow:5000", "pod_s3_endpoint": "http://everest-s3:7070"}
    text = made("plain", **here, **there)
    assert "127.0.0.1" not in text
    assert text == made("plain", mlflow_uri=there["pod_mlflow_uri"], s3_endpoint=there["pod_s3_endpoint"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"s3_bucket": None}, r"EVEREST_S3_BUCKET \(--s3-bucket\) is not set"),
        (
            {"s3_endpoint": "http://localhost:7070"},
            r"EVEREST_S3_ENDPOINT .* = .*the pod itself; EVEREST_POD_S3_ENDPOINT ",
        ),
        ({"s3_endpoint": "http://[::1]:7070"}, "the pod itself"),
        ({"s3_endpoint": "http://0.0.0.0:7070"}, "the pod itself"),
        (
            {"s3_endpoint": "http://s3", "pod_s3_endpoint": "http://127.0.0.2"},
            "EVEREST_POD_S3_ENDPOINT .*the pod itself",
        ),
        ({"mlflow_uri": "https://mlflow.localhost"}, "EVEREST_MLFLOW_URI .*the pod itself; EVEREST_POD_MLFLOW_URI"),
        ({"mlflow_uri": "http://[::ffff:127.0.0.1]:5000"}, "the pod itself"),
        ({"mlflow_uri": "sqlite:///mlflow.db"}, "EVEREST_MLFLOW_URI .*must begin with http:// or https://"),
        ({"mlflow_uri": "postgresql://me@db/mlflow"}, "EVEREST_MLFLOW_URI .*must begin with http:// or https://"),
    ],
)
def test_what_pods_could_do_nothing_with_is_refused_before_there_are_any(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        made("plain", **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", [{"hostNetwork": True}, {"containers": [{"name": "proxy", "image": "proxy:1"}]}])
def test_a_pod_with_others_beside_it_may_be_told_of_itself(tmp_path: Path, spec: dict[str, Any]) -> None:
    patch = tmp_path / "patch.yaml"
    patch.write_text(yaml.safe_dump({"spec": spec}))
    assert "http://127.0.0.1:7070" in made("plain", s3_endpoint="http://127.0.0.1:7070", pod_patch=patch)


def patched(tmp_path: Path, text: str) -> dict[str, Any]:
    (tmp_path / "patch.yaml").write_text(text)
    job, _ = yaml.safe_load_all(made("plain", pod_patch=tmp_path / "patch.yaml"))
    return dict(job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"])


def test_a_pod_patch_adds_changes_and_removes_by_name(tmp_path: Path) -> None:
    before = patched(tmp_path, "{}")["spec"]["containers"][0]
    pod = patched(
        tmp_path,
        """
        metadata: {labels: {team: vision}}
        spec:
          nodeSelector: {gpu: h200}
          tolerations: [{key: gpu, operator: Exists}]
          terminationGracePeriodSeconds: null
          volumes: [{name: shm, emptyDir: {sizeLimit: 1Gi}}, {name: cache, emptyDir: {}}]
          containers:
            - name: pytorch
              env: [{name: NCCL_DEBUG, value: INFO}, {name: MORE, value: "1"}]
              volumeMounts: [{name: cache, mountPath: /cache}]
            - name: sidecar
              image: sidecar:1
        """,
    )
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "everest"
    spec = pod["spec"]
    assert spec["nodeSelector"] == {"gpu": "h200"}
    assert "terminationGracePeriodSeconds" not in spec
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert set(volumes) == {"experiment", "work", "tmp", "shm", "cache"}
    main, sidecar = spec["containers"]
    assert sidecar["name"] == "sidecar"
    env = {each["name"]: each.get("value") for each in main["env"]}
    assert (env["NCCL_DEBUG"], env["MORE"], len(env)) == ("INFO", "1", len(before["env"]) + 1)
    assert main["command"] == before["command"]
    assert main["securityContext"] == before["securityContext"]


def test_gpus_are_asked_for_by_the_name_that_the_cluster_has_for_them() -> None:
    job, _ = yaml.safe_load_all(made("plain", gpu_resource="amd.com/gpu", gpus=4))
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    for asked in ("requests", "limits"):
        assert container["resources"][asked]["amd.com/gpu"] == "4"
    assert "nvidia.com" not in str(job)


def test_no_pod_is_told_a_network_interface_that_it_may_not_have() -> None:
    assert "IFNAME" not in made("plain", nodes="2")


def test_an_elastic_job_has_as_many_pods_as_it_may_at_most() -> None:
    job, _ = yaml.safe_load_all(made("plain", nodes="2..4"))
    policy, worker = job["spec"]["elasticPolicy"], job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert (policy["minReplicas"], policy["maxReplicas"], worker["replicas"]) == (2, 4, 4)


DOCUMENTED = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.S)


@pytest.mark.parametrize("text", DOCUMENTED)
def test_every_pod_patch_of_the_page_fits_a_pod_and_takes_nothing_away(tmp_path: Path, text: str) -> None:
    before, patch, pod = patched(tmp_path, "{}"), yaml.safe_load(text), patched(tmp_path, text)
    (old,), (asked,), (new,) = (each["spec"]["containers"] for each in (before, patch, pod))
    tolerated = pod["spec"].pop("tolerations")
    assert all(each in tolerated for each in patch["spec"].pop("tolerations", []))
    assert {**pod["spec"], "containers": None}.items() >= {**patch["spec"], "containers": None}.items()
    for kind, resources in asked.get("resources", {}).items():
        assert new["resources"][kind] == old["resources"][kind] | {name: str(of) for name, of in resources.items()}
    assert {each["name"]: each.get("value") for each in asked.get("env", [])}.items() <= {
        each["name"]: each.get("value") for each in new["env"]
    }.items()
    assert new["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_the_page_has_patches_for_infiniband_and_efa() -> None:
    for needed in ("hostNetwork: true", "rdma/", "vpc.amazonaws.com/efa", "add: [IPC_LOCK]"):
        assert any(needed in text for text in DOCUMENTED), needed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spec: {tolerationz: []}", "a pod has no spec.tolerationz"),
        ("spec: {containers: [{name: pytorch, volumeMounts: [{name: a, mountpath: /a}]}]}", "mount"),
        ("containers: []", "must have metadata and spec"),
        ("spec: [", "is not YAML"),
        ("- a", "must have metadata and spec"),
    ],
)
def test_a_patch_that_no_pod_can_take_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"pod patch .*patch.yaml .*{said}"):
        patched(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("data", "videos", "must be pvc:NAME or a path"),
        (
            "nodes", "3",
            r"EVEREST_NODES \(--nodes\) = '3': the 32 micro-batches of a step \(optim.batch_size / optim.micro_batch\) "
            r"are shared evenly by 1 or 2 or 4 pods of 8 processes$",
        ),
        ("nodes", "3..4", r"EVEREST_NODES \(--nodes\) = '3..4': .* by 1 or 2 or 4 pods"),
        ("nodes", "2..7", r"EVEREST_NODES \(--nodes\) = '2..7': .* by 1 or 2 or 4 pods"),
        ("processes", "7", r"are shared evenly by no number of pods of 7 processes$"),
        ("queue_priority", "urgent", r"EVEREST_QUEUE_PRIORITY .* = 'urgent': .* EVEREST_QUEUE .*names none"),
        ("pod_patch", "nowhere.yaml", "pod patch nowhere.yaml .* cannot be read"),
    ],
)  # fmt: skip
def test_settings_that_make_no_manifest_are_one_line(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        made("plain", **{name: value})


def test_a_name_that_no_service_may_have_is_refused() -> None:
    spec = JobSpec(SPEC.experiment.override({"name": "3-frames"}))
    with pytest.raises(UsageError, match="name = '3-frames': must begin with a letter"):
        manifest_of(spec, s3_bucket="videos")


if __name__ == "__main__":
    for case in CASES:
        (GOLDEN / f"{case}.yaml").write_text(made(case))
