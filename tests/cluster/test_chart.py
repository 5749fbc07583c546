"""The platform's chart, linted, refused, installed, tested, upgraded, rolled back and uninstalled on a real cluster."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from orchestration.rights import rules
from tests.cluster.platform import ROOT, Done, Platform, host_folders
from tests.cluster.runs import tiny
from tests.services import free_port, until

CHART = ROOT / "helm/everest"
SCENARIOS = sorted(CHART.glob("ci/*.yaml"))


@pytest.fixture(scope="module")
def helm() -> str:
    return shutil.which("helm") or pytest.skip("no helm")


@pytest.mark.parametrize("values", SCENARIOS, ids=lambda file: file.stem)
def test_every_scenario_is_strictly_linted_and_accepted_under_the_restricted_standard(
    platform: Platform, restricted: str, helm: str, tmp_path: Path, values: Path
) -> None:
    assert run(helm, "lint", "--strict", CHART, "--values", values).code == 0
    made = run(helm, "template", "everest", CHART, "--values", values, "--namespace", platform.namespace)
    assert made.code == 0, made.err
    objects = [each for each in yaml.safe_load_all(made.out) if each]
    for each in objects:
        template = each.get("spec", {}).get("template")
        pod = template or (each if each["kind"] == "Pod" else None)
        if pod:
            assert_restricted(pod["spec"])
    (tmp_path / "all.yaml").write_text(made.out.replace(f"namespace: {platform.namespace}", f"namespace: {restricted}"))
    done = run("kubectl", "--namespace", restricted, "apply", "--dry-run=server", "-f", tmp_path / "all.yaml")
    assert done.code == 0, done.err
    assert "violate" not in done.err


def test_the_restricted_standard_is_watched_over_here(platform: Platform, restricted: str) -> None:
    """What the test above relies on: a Deployment that may run as root is warned of."""
    bad = ["create", "deployment", "bad", "--image=x", "--dry-run=server"]
    assert "violate PodSecurity" in run("kubectl", "--namespace", restricted, *bad).err


@pytest.fixture(scope="module")
def restricted(platform: Platform) -> Iterator[str]:
    """A namespace that refuses what is not restricted, and warns of what would make such pods."""
    name = f"{platform.namespace}-chart-restricted"
    platform.kubectl("create", "namespace", name)
    modes = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    platform.kubectl("label", "namespace", name, *modes)
    yield name
    platform.kubectl("delete", "namespace", name, "--wait=false")


def test_a_sweeps_controller_may_do_the_same_under_the_charts_account_as_under_its_own(helm: str) -> None:
    made = run(helm, "template", "everest", CHART, "--values", SCENARIOS[0])
    (role,) = [
        each for each in yaml.safe_load_all(made.out)
        if each and each["kind"] == "Role" and each["metadata"]["name"] == "everest-sweep"
    ]  # fmt: skip

    def single(rules: list[dict[str, list[str]]]) -> set[tuple[str, str, str]]:
        return {
            (group, resource, verb)
            for rule in rules for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]
        }  # fmt: skip

    assert single(role["rules"]) == single(rules())


def assert_restricted(spec: dict[str, Any]) -> None:
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["resources"]["requests"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["mlflow.replica=3"], "at '/mlflow': additional properties 'replica' not allowed"),
        (["postgresql.size=ten"], "at '/postgresql/size'"),
        (["postgresql.enabled=false", "s3.secret=s3"], "postgresql.external.secret must name a Secret"),
        ([], "s3.secret must name a Secret"),
    ],
)
def test_values_that_cannot_be_are_one_line(helm: str, values: list[str], said: str) -> None:
    done = run(helm, "template", "everest", CHART, *(word for value in values for word in ("--set", value)))
    assert done.code == 1
    assert said in done.err


def run(*command: object, timeout: float = 300) -> Done:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=timeout, cwd=ROOT
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass
class Release:
    platform: Platform  # with the settings that the chart's notes name
    helm: str
    values: Path

    @property
    def namespace(self) -> str:
        return self.platform.namespace

    def make(self, *arguments: str) -> None:
        done = run("make", *arguments, f"RELEASE={NAME}", f"NAMESPACE={self.namespace}", timeout=400)
        assert done.code == 0, done.err

    def install(self, *arguments: str) -> None:
        self.make("install", f"ARGS=--values {self.values} --timeout 5m {' '.join(arguments)}")

    def __call__(self, *arguments: str) -> str:
        done = run(self.helm, *arguments, "--namespace", self.namespace)
        assert done.code == 0, done.err
        return done.out

    def secret(self, name: str) -> dict[str, str]:
        found = json.loads(self.platform.kubectl("get", "secret", name, "-o", "json"))["data"]
        return {key: b64decode(value).decode() for key, value in found.items()}


NAME = "ev"


@pytest.fixture(scope="module")
def release(platform: Platform, helm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Installed by `make install`, with generated secrets, and this machine's programs in the pods."""
    folder, namespace = tmp_path_factory.mktemp("chart"), f"{platform.namespace}-chart"
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(host_values()))
    environment = {**platform.environment, "EVEREST_NAMESPACE": namespace}
    made = Release(Platform(environment, namespace, platform.mlflow, "everest"), helm, values)
    volumes = [volume(folder, namespace, f"data-{NAME}-{what}-0") for what in ("postgresql", "s3")]
    (folder / "volumes.yaml").write_text(yaml.safe_dump_all(volumes))
    platform.kubectl("apply", "-f", folder / "volumes.yaml")
    try:
        made.install()
        with ui(made) as addresses:
            made.platform.environment |= settings_of(made, addresses)
            yield made
    finally:
        platform.kubectl("delete", "namespace", namespace, "--ignore-not-found")
        platform.kubectl("delete", "-f", folder / "volumes.yaml")


def host_values() -> dict[str, Any]:
    cluster = Path(os.environ.get("CLUSTER_HOME", "/var/lib/testcluster"))
    if not (cluster / "bin/versitygw").exists():
        pytest.skip("not on the machine of the test cluster: its programs cannot be run in pods")
    folders = {**host_folders(), "programs": cluster / "bin"}
    (programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    image = os.environ.get("EVEREST_TEST_IMAGE", "localhost/host:1")
    return {
        "image": image,
        "extraVolumes": [{"name": name, "hostPath": {"path": str(path)}} for name, path in folders.items()],
        "extraVolumeMounts": [
            {"name": name, "mountPath": str(path), "readOnly": True} for name, path in folders.items()
        ],
        "extraEnv": [{"name": "PATH", "value": f"{sys.prefix}/bin:/usr/bin:/bin"}],
        "postgresql": {"image": image, "programs": str(programs), "size": "1Gi"},
        "s3": {"server": {"enabled": True, "image": image, "command": [str(cluster / "bin/versitygw")], "size": "1Gi"}},
        "mlflow": {"auth": {"enabled": True}, "workers": 1},
    }


def volume(folder: Path, namespace: str, claim: str) -> dict[str, Any]:
    path = folder / claim
    path.mkdir()
    os.chown(path, 1000, 1000)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": str(path)},
        },
    }


@contextmanager
def ui(release: Release) -> Iterator[dict[str, str]]:
    """`make ui`, and the addresses it says."""
    ports = {name: free_port() for name in ("PORT", "SWEEPS_PORT", "S3_PORT", "DATABASE_PORT")}
    words = [f"{name}={port}" for name, port in ports.items()]
    command = ["make", "ui", *words, f"RELEASE={NAME}", f"NAMESPACE={release.namespace}"]
    process = subprocess.Popen(
        command, env=release.platform.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout
    lines = list(iter(process.stdout.readline, "Ctrl-C ends it\n"))
    addresses = dict(re.findall(r"^(\S+): (\S+)$", "".join(lines), re.M))
    assert list(addresses) == ["MLflow", "optuna-dashboard", "S3", "PostgreSQL"]
    yield addresses
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)


def settings_of(release: Release, addresses: dict[str, str]) -> dict[str, str]:
    """What the notes say belongs into .env, at this test's ports, and what the Secrets hold."""
    named = dict(re.findall(r"^  (EVEREST_\w+)=(\S+)$", release("get", "notes", NAME), re.M))
    here = {
        "EVEREST_MLFLOW_URI": addresses["MLflow"],
        "EVEREST_S3_ENDPOINT": addresses["S3"],
        "EVEREST_STUDIES": f"postgresql://everest@{addresses['PostgreSQL']}/studies",
    }
    assert here.keys() <= named.keys()
    secrets = [release.secret(f"{NAME}-{what}") for what in ("postgresql", "s3", "mlflow")]
    return {**named, **here, **secrets[0], **secrets[1], **secrets[2], "MLFLOW_S3_ENDPOINT_URL": addresses["S3"]}


def test_its_own_test_writes_and_reads_a_run_an_artifact_and_a_study(release: Release) -> None:
    assert "Succeeded" in release("test", NAME)
    said = release.platform.kubectl("logs", f"{NAME}-check")
    assert "S3 its artifact" in said
    assert "the database has the study" in said


def test_mlflow_asks_who_one_is_and_what_it_is_called(release: Release) -> None:
    address = release.platform.environment["EVEREST_MLFLOW_URI"]
    search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(search, timeout=20).status_code == 401
    who = ("admin", release.secret(f"{NAME}-mlflow")["MLFLOW_TRACKING_PASSWORD"])
    assert requests.get(search, auth=who, timeout=20).status_code == 200
    assert requests.get(search, auth=who, headers={"Host": "evil.example.org"}, timeout=20).status_code == 403


def test_a_submitted_experiment_runs_against_it(release: Release) -> None:
    done = release.platform.jobs("submit", "demo-finetune", "--name", "first", *tiny(10), "--gpus", "2", "--wait")
    assert done.code == 0, done.err + release.platform.jobs("logs", "first").out
    listed = release.platform.jobs("list")
    assert re.search(r"^first +succeeded +\w+ +10 +\d", listed.out, re.M), listed.out + listed.err
    registered = release.platform.jobs("register", "first")
    assert (registered.code, registered.out) == (0, "models:/first@candidate\n"), registered.err
    assert release.platform.everest("doctor").code == 0


def test_a_small_sweep_runs_against_it_under_its_account(release: Release, tmp_path: Path) -> None:
    environment = {**release.platform.environment, "EVEREST_GPUS": "1"}
    fixed = dict(zip(*[iter(word.removeprefix("--") for word in tiny(10))] * 2, strict=True))
    space = {
        "finetune": {
            "recipe": "demo-finetune",
            "fixed": {name: yaml.safe_load(value) for name, value in fixed.items()},
            "search": {"optim.lr": {"categorical": [0.001, 0.002]}},
        },
        "objectives": {"val/top1": "max"},
        "sampler": "grid",
    }
    (tmp_path / "charted.yaml").write_text(yaml.safe_dump(space))
    sweep = [sys.executable, "-m", "sweeps"]

    def said(*words: object) -> str:
        done = subprocess.run(
            [*sweep, *map(str, words)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said("launch", tmp_path / "charted.yaml", "--in-cluster", "--parallel", 2)
    assert "sweep-charted" not in release.platform.names("roles") + release.platform.names("serviceaccounts")

    def ended() -> bool:
        path = "jsonpath={.status.conditions[*].type}"
        conditions = release.platform.kubectl("get", "job", "sweep-charted", "-o", path)
        assert "Failed" not in conditions, release.platform.kubectl("logs", "job/sweep-charted")
        return "Complete" in conditions

    until(ended, "the sweep", 300, every=1)
    assert "charted: 2 complete, 0 pruned, 0 failed" in said("status", "charted")


def test_an_upgrade_and_a_rollback_keep_what_was_written(release: Release) -> None:
    before = [release.secret(f"{NAME}-{what}") for what in ("postgresql", "s3", "mlflow")]
    release.install("--set", "dashboard.replicas=2")
    release("rollback", NAME, "1", "--wait")
    assert [release.secret(f"{NAME}-{what}") for what in ("postgresql", "s3", "mlflow")] == before
    until(lambda: sum("dashboard" in name for name in release.platform.names("pods")) == 1, "the dashboard of before")
    assert "Succeeded" in release("test", NAME)


def test_uninstalling_keeps_volumes_and_their_secrets_and_a_new_install_finds_them(release: Release) -> None:
    claims = release.platform.names("persistentvolumeclaims")
    release("uninstall", NAME, "--wait")
    assert release.platform.names("persistentvolumeclaims") == claims
    assert {f"{NAME}-{what}" for what in ("postgresql", "s3", "mlflow")} <= set(release.platform.names("secrets"))
    for kind in ("deployments", "statefulsets", "services", "networkpolicies", "roles", "configmaps"):
        assert not [name for name in release.platform.names(kind) if name.startswith(f"{NAME}-")], kind
    release.install()
    with ui(release) as addresses:
        who = ("admin", release.secret(f"{NAME}-mlflow")["MLFLOW_TRACKING_PASSWORD"])
        model = f"{addresses['MLflow']}/api/2.0/mlflow/registered-models/get?name=first"
        assert requests.get(model, auth=who, timeout=20).json()["registered_model"]["name"] == "first"
