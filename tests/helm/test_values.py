"""Values that are wrong are refused, those that are right lead to what the standards ask for."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.cli import _commands
from orchestration.cluster.rights import rules
from orchestration.settings import PlatformSettings
from tests.helm.chart import CHART, SCENARIOS, helm, pod_of, render

scenarios = pytest.mark.parametrize("values", SCENARIOS, ids=lambda file: file.stem)


@scenarios
def test_every_scenario_is_strictly_linted(values: Path) -> None:
    done = helm("lint", "--strict", CHART, "--values", values)
    assert done.code == 0, done.out


@scenarios
def test_every_container_has_requests_a_memory_limit_and_nothing_to_write_on(values: Path) -> None:
    pods = [pod for each in render(values) if (pod := pod_of(each))]
    assert len(pods) >= 4
    for pod in pods:
        asks_the_cluster = pod["spec"]["containers"][0]["name"] == "caretaker"
        assert pod["spec"]["automountServiceAccountToken"] is asks_the_cluster
        for container in pod["spec"]["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert container["resources"]["limits"]["memory"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


@scenarios
def test_servers_are_probed_and_those_that_can_be_two_have_a_disruption_budget(values: Path) -> None:
    objects = render(values)
    running = [each for each in objects if each["kind"] in {"Deployment", "StatefulSet"}]
    servers = [each for each in running if each["spec"]["template"]["spec"]["containers"][0].get("ports")]
    assert len(running) - len(servers) == 1  # the caretaker serves nobody
    for each in servers:
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    budgets = {each["metadata"]["name"] for each in objects if each["kind"] == "PodDisruptionBudget"}
    assert budgets == {each["metadata"]["name"] for each in servers if each["kind"] == "Deployment"}


@scenarios
def test_no_password_is_in_the_manifests_but_in_secrets(values: Path) -> None:
    for each in render(values):
        if each["kind"] != "Secret":
            for name, value in environment_of(each):
                assert not re.search("PASSWORD|KEY", name), f"{name}={value}"
                assert not re.search(r"://[^/@]*:[^/@]*@", value), f"{name}={value}"


def environment_of(each: dict[str, Any]) -> list[tuple[str, str]]:
    pod = pod_of(each)
    containers = pod["spec"]["containers"] if pod else []
    return [(entry["name"], entry["value"]) for one in containers for entry in one["env"] if "value" in entry]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["mlflow.replica=3"], "at '/mlflow': additional properties 'replica' not allowed"),
        (["postgresql.size=ten"], "at '/postgresql/size'"),
        (["postgresql.enabled=false", "s3.secret=s3"], "postgresql.external.secret must name a Secret"),
        ([], "s3.secret must name a Secret"),
        (["s3.server.enabled=true", "s3.endpoint=https://s3.example.org"], "s3.endpoint and s3.server.enabled"),
        (["s3.secret=s3", "mlflow.ingress.enabled=true"], "mlflow.ingress.host is not set"),
        (
            ["s3.secret=s3", "mlflow.ingress.enabled=true", "mlflow.ingress.host=mlflow.example.org"],
            "networkPolicies.pages must name the ingress controller's pods",
        ),
    ],
)
def test_values_that_cannot_be_are_one_line(values: list[str], said: str) -> None:
    done = helm("template", "everest", CHART, *(word for value in values for word in ("--set", value)))
    assert done.code == 1
    assert said in done.err


def test_every_value_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r" *(?!requests|limits)\w+: *\S", line):
            assert before.lstrip().startswith("#"), f"{line.strip()} has no comment above it"


def test_the_chart_grants_a_sweeps_controller_what_it_grants_itself_elsewhere() -> None:
    (role,) = [
        each for each in render(SCENARIOS[0])
        if each["kind"] == "Role" and each["metadata"]["name"] == "everest-sweep"
    ]  # fmt: skip
    assert single(role["rules"]) == single(rules())


def test_the_caretaker_may_do_what_it_does_and_no_more() -> None:
    (role,) = [
        each for each in render(SCENARIOS[0])
        if each["kind"] == "Role" and each["metadata"]["name"] == "everest-caretaker"
    ]  # fmt: skip
    jobs = {("kubeflow.org", "pytorchjobs", verb) for verb in ("get", "list", "patch")}
    jobs |= {("trainer.kubeflow.org", "trainjobs", verb) for verb in ("get", "list", "patch", "delete")}
    pods_begin_again = {
        ("trainer.kubeflow.org", "trainingruntimes", "get"),
        ("trainer.kubeflow.org", "trainingruntimes", "update"),
        ("jobset.x-k8s.io", "jobsets", "delete"),
        ("", "configmaps", "delete"),
    }
    pods = {("", "pods", verb) for verb in ("list", "watch", "delete")}
    assert single(role["rules"]) == jobs | pods_begin_again | pods


def test_what_cleans_up_is_off_removes_nothing_by_itself_and_only_reads_jobs() -> None:
    def ours(*more: str) -> dict[str, Any]:
        there = render(SCENARIOS[-1], *more)
        return {each["kind"]: each for each in there if each["metadata"]["name"] == "everest-gc"}

    assert not ours()
    there = ours("--set", "gc.enabled=true", "--set", "mlflow.auth.enabled=true")
    assert single(there["Role"]["rules"]) == {
        ("kubeflow.org", "pytorchjobs", "get"),
        ("kubeflow.org", "pytorchjobs", "list"),
        ("trainer.kubeflow.org", "trainjobs", "get"),
        ("trainer.kubeflow.org", "trainjobs", "list"),
        ("", "configmaps", "get"),
        ("", "pods", "list"),
        ("batch", "jobs", "list"),
    }
    pod = pod_of(there["CronJob"])
    assert pod
    (container,) = pod["spec"]["containers"]
    assert container["command"][:4] == ["python", "-m", "orchestration", "gc"]
    options = _commands().parser.parse_args(container["command"][3:])
    assert not options.delete
    names = {
        entry["name"].removeprefix("EVEREST_").lower() for entry in container["env"] if "EVEREST_" in entry["name"]
    }
    assert names == {"namespace", "mlflow_uri", "s3_bucket", "s3_prefix", "s3_region", "s3_endpoint"}
    assert names <= PlatformSettings.model_fields.keys()
    deleting = ours("--set-json", 'gc={"enabled": true, "rules": ["--older", "90d", "--delete"]}')
    assert pod_of(deleting["CronJob"])["spec"]["containers"][0]["command"][-1] == "--delete"  # type: ignore[index]


def single(rules: list[dict[str, list[str]]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]
    }  # fmt: skip


def test_defaults_hold_no_secret() -> None:
    def leaves(values: Any, path: str = "") -> list[tuple[str, Any]]:
        if isinstance(values, dict):
            return [leaf for key, value in values.items() for leaf in leaves(value, f"{path}.{key}")]
        return [(path, values)]

    for path, value in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        assert not (re.search("secret|password", path, re.I) and value), path
