"""The platform's chart, installed, tested, used, upgraded, rolled back and uninstalled on a real cluster."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.cluster.platform import ROOT, Platform, run
from tests.cluster.release import NAME, Release, host_pod, host_values, submitter, ui, volume
from tests.cluster.runs import tiny
from tests.helm.chart import SCENARIOS, render
from tests.helm.test_network_policies import JOB
from tests.services import until


@pytest.mark.parametrize("values", SCENARIOS, ids=lambda file: file.stem)
def test_every_scenario_is_accepted_under_the_restricted_standard(
    platform: Platform, restricted: str, tmp_path: Path, values: Path
) -> None:
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(render(values, namespace=restricted)))
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


@pytest.fixture(scope="module")
def release(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Installed by `make install`, with generated secrets, and this machine's programs in the pods."""
    folder, namespace = tmp_path_factory.mktemp("chart"), f"{platform.namespace}-chart"
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(host_values()))
    environment = {**platform.environment, "EVEREST_NAMESPACE": namespace}
    made = Release(Platform(environment, namespace, platform.mlflow, "everest"), values)
    volumes = [volume(folder, namespace, f"data-{NAME}-{what}-0") for what in ("postgresql", "s3")]
    (folder / "volumes.yaml").write_text(yaml.safe_dump_all(volumes))
    platform.kubectl("apply", "-f", folder / "volumes.yaml")
    try:
        made.install()
        yield made
    finally:
        platform.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
        platform.kubectl("delete", "-f", folder / "volumes.yaml", "--wait=false")


@pytest.fixture(scope="module")
def user(release: Release) -> Iterator[Platform]:
    """Somebody who may submit and no more, while `make ui` runs."""
    made = submitter(release, release.values.with_name("submitter"))
    with ui(made) as addresses:
        made.environment |= addresses
        yield made


def test_its_own_test_writes_and_reads_a_run_an_artifact_and_a_study(release: Release) -> None:
    assert "Succeeded" in release("test", NAME)
    said = release.admin.kubectl("logs", f"{NAME}-check")
    assert "S3 its artifact" in said
    assert "the database has the study" in said


def test_mlflow_asks_who_one_is_and_what_it_is_called(release: Release, user: Platform) -> None:
    address = user.environment["EVEREST_MLFLOW_URI"]
    search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(search, timeout=20).status_code == 401
    who = ("admin", release.secret(f"{NAME}-mlflow")["MLFLOW_TRACKING_PASSWORD"])
    assert requests.get(search, auth=who, timeout=20).status_code == 200
    assert requests.get(search, auth=who, headers={"Host": "evil.example.org"}, timeout=20).status_code == 403


def test_where_the_network_keeps_policies_a_job_reaches_what_it_needs_and_strangers_nothing(release: Release) -> None:
    services = {"mlflow": 5000, "s3": 7070, "postgresql": 5432, "dashboard": 8080}
    doors = {name: (f"{NAME}-{name}", port) for name, port in services.items()}
    mute = {"podSelector": {"matchLabels": {"app": "mute"}}, "policyTypes": ["Egress"]}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "mute"}, "spec": mute}
    file = release.values.with_name("mute.yaml")
    file.write_text(yaml.safe_dump(policy))
    release.admin.kubectl("apply", "-f", file)
    if reached(release, "mute", {"app": "mute"}, doors):
        pytest.skip("the network of this cluster keeps no network policies")
    assert reached(release, "stranger", {}, doors) == set()
    assert reached(release, "job", JOB, doors) == {"mlflow", "s3"}


def reached(release: Release, who: str, labels: dict[str, str], doors: dict[str, tuple[str, int]]) -> set[str]:
    """Which of them a pod with these labels can connect to."""
    program = (
        "import json, socket, time\ntime.sleep(5)  # policies are told of a pod once it runs\n"
        f"for name, door in {doors!r}.items():\n"
        "    try: socket.create_connection(door, timeout=3).close()\n"
        "    except OSError: continue\n"
        "    print(name)\n"
    )
    release.admin.kubectl("apply", "-f", host_pod(release, f"probe-{who}", labels, ["python", "-c", program]))
    done = "jsonpath={.status.phase}=Succeeded"
    release.admin.kubectl("wait", f"pod/probe-{who}", f"--for={done}", "--timeout=600s")
    said = release.admin.kubectl("logs", f"probe-{who}")
    release.admin.kubectl("delete", "pod", f"probe-{who}", "--wait=false")
    return set(said.split())


def test_who_may_submit_runs_an_experiment_against_it_and_registers_it(user: Platform) -> None:
    done = user.jobs("submit", "demo-finetune", "--name", "first", *tiny(10), "--gpus", "2", "--wait")
    assert done.code == 0, done.err + user.jobs("logs", "first").out
    listed = user.jobs("list")
    assert re.search(r"^first +succeeded +\S+ +\w+ +10/10 +100% +- +\d+% +\d", listed.out, re.M), (
        listed.out + listed.err
    )
    registered = user.jobs("register", "first")
    assert (registered.code, registered.out) == (0, "models:/first@candidate\n"), registered.err
    examined = user.everest("doctor")
    assert examined.code == 0, examined.out
    assert re.search("^-   GPUs +one may not see", examined.out, re.M)


def test_who_may_submit_runs_a_small_sweep_against_it_under_the_charts_account(
    release: Release, user: Platform, tmp_path: Path
) -> None:
    environment = {**user.environment, "EVEREST_GPUS": "1"}
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
    assert "sweep-charted" not in release.admin.names("roles") + release.admin.names("serviceaccounts")

    def ended() -> bool:
        path = "jsonpath={.status.conditions[*].type} {.status.failed}"
        conditions = release.admin.kubectl("get", "job", "sweep-charted", "-o", path)
        if "Failed" in conditions or conditions[-1].isdigit():
            pytest.fail(release.admin.kubectl("logs", "--selector=job-name=sweep-charted", "--prefix"))
        return "Complete" in conditions

    until(ended, "the sweep", 300, every=1)
    assert "charted: 2 complete, 0 pruned, 0 failed" in said("status", "charted")


def test_an_upgrade_and_a_rollback_keep_what_was_written(release: Release) -> None:
    before = [release.secret(f"{NAME}-{what}") for what in ("postgresql", "s3", "mlflow")]
    release.install("--set", "dashboard.replicas=2")
    release("rollback", NAME, "1", "--wait")
    assert [release.secret(f"{NAME}-{what}") for what in ("postgresql", "s3", "mlflow")] == before
    until(lambda: sum("dashboard" in name for name in release.admin.names("pods")) == 1, "the dashboard of before")
    assert "Succeeded" in release("test", NAME)


def test_uninstalling_keeps_volumes_and_their_secrets_for_a_new_install_unless_told_otherwise(release: Release) -> None:
    claims = release.admin.names("persistentvolumeclaims")
    secrets = {f"{NAME}-{what}" for what in ("postgresql", "s3", "mlflow")}
    release("uninstall", NAME, "--wait")
    assert release.admin.names("persistentvolumeclaims") == claims
    assert secrets <= set(release.admin.names("secrets"))
    for kind in ("deployments", "statefulsets", "services", "networkpolicies", "roles", "configmaps"):
        assert not [name for name in release.admin.names(kind) if name.startswith(f"{NAME}-")], kind

    release.install("--set", "postgresql.keep=false,s3.server.keep=false")
    with ui(submitter(release, release.values.with_name("again"))) as addresses:
        who = ("admin", release.secret(f"{NAME}-mlflow")["MLFLOW_TRACKING_PASSWORD"])
        model = f"{addresses['EVEREST_MLFLOW_URI']}/api/2.0/mlflow/registered-models/get?name=first"
        until(lambda: requests.get(model, auth=who, timeout=20).status_code < 500, "MLflow to have its database")
        found = requests.get(model, auth=who, timeout=20)
        assert found.ok, found.text
    release("uninstall", NAME, "--wait")
    until(lambda: not release.admin.names("persistentvolumeclaims"), "the volumes to go")
    assert not secrets & set(release.admin.names("secrets"))
