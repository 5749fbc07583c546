"""Which pods of the platform and of experiments reach which: everything else is denied.

The policies are read here as the Kubernetes documentation defines them, over the labels that pods really have.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import yaml

from orchestration.settings import PlatformSettings
from sweeps.incluster import manifests
from sweeps.space import Space
from tests.helm.chart import CHART, pod_of, render
from tests.orchestration.cluster.test_manifest import GOLDEN

Labels = dict[str, str]

OUTSIDE = "outside"  # not a pod of this namespace
DNS, PAGES, DASHBOARD, DATABASE, S3, HTTPS, ANY = 53, 5000, 8080, 5432, 7070, 443, 29500


JOB: Labels = next(yaml.safe_load_all((GOLDEN / "plain.yaml").read_text()))["spec"]["pytorchReplicaSpecs"]["Worker"][
    "template"
]["metadata"]["labels"]


def pods(objects: list[dict[str, Any]]) -> dict[str, Labels]:
    platform = {
        str(pod["metadata"]["labels"]["app.kubernetes.io/component"]): pod["metadata"]["labels"]
        for each in objects
        if (pod := pod_of(each))
    }
    settings = PlatformSettings(studies="postgresql://everest@x/studies", mlflow_uri="http://x", s3_bucket="videos")
    controller = manifests(Space.load("smoke"), settings, [])[-1]["spec"]["template"]
    return {**platform, "job": JOB, "sweep": controller["metadata"]["labels"], "stranger": {"app": "shop"}}


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(
        (labels.get(each["key"]) in each["values"]) == {"In": True, "NotIn": False}[each["operator"]]
        for each in selector.get("matchExpressions", [])
    )


def permits(rule: Mapping[str, Any], side: str, other: Labels | None, port: int) -> bool:
    if port not in [each["port"] for each in rule.get("ports", [{"port": port}])]:
        return False
    peers = rule.get(side)
    return peers is None or any(other is not None and selects(peer["podSelector"], other) for peer in peers)


def allowed(policies: list[dict[str, Any]], direction: str, of: Labels | None, other: Labels | None, port: int) -> bool:
    """A pod that no policy selects is open; one that some select needs one of them to permit it."""
    if of is None:
        return True
    specs = [each["spec"] for each in policies if direction in each["spec"]["policyTypes"]]
    isolating = [spec for spec in specs if selects(spec["podSelector"], of)]
    key, side = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[direction]
    return not isolating or any(permits(rule, side, other, port) for spec in isolating for rule in spec.get(key) or [])


def paths(scenario: str, *more: str) -> set[tuple[str, str, int]]:
    """Who reaches whom at which port."""
    objects = render(CHART / f"ci/{scenario}.yaml", *more)
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    known: dict[str, Labels | None] = {**pods(objects), OUTSIDE: None}
    ports = (DNS, PAGES, DASHBOARD, DATABASE, S3, HTTPS, ANY)
    return {
        (source, target, port)
        for (source, ours), (target, theirs), port in product(known.items(), known.items(), ports)
        if (ours, theirs) != (None, None) and source != "stranger"
        and allowed(policies, "Egress", ours, theirs, port) and allowed(policies, "Ingress", theirs, ours, port)
    }  # fmt: skip


JOBS = {("job", "job", port) for port in (DNS, PAGES, DASHBOARD, DATABASE, S3, HTTPS, ANY)}


def but_to_strangers_and_names(found: set[tuple[str, str, int]]) -> set[tuple[str, str, int]]:
    """Names are asked for by all; a stranger is somebody else's pod, which keeps no door of ours."""
    return {path for path in found if path[1] != "stranger" and path[2] != DNS} | {
        path for path in found if path in JOBS
    }


def test_with_everything_in_the_cluster_only_what_is_needed_is_open() -> None:
    objects = "trying-out"
    expected = {
        *JOBS,
        *((who, "mlflow", PAGES) for who in ("job", "sweep", "hooks")),
        *((who, "s3", S3) for who in ("job", "sweep", "hooks", "mlflow")),
        *((who, "postgresql", DATABASE) for who in ("sweep", "hooks", "mlflow", "dashboard")),
        *((who, OUTSIDE, HTTPS) for who in ("sweep", "caretaker")),  # the API server
    }
    assert but_to_strangers_and_names(paths(objects)) == expected


def test_what_cleans_up_reaches_mlflow_s3_and_the_api_server() -> None:
    found = but_to_strangers_and_names(paths("trying-out", "--set", "gc.enabled=true"))
    assert {path for path in found if "gc" in path} == {
        ("gc", "mlflow", PAGES),
        ("gc", "s3", S3),
        ("gc", OUTSIDE, HTTPS),
    }


def test_with_s3_and_postgresql_outside_nothing_comes_in_but_what_is_named() -> None:
    expected = {
        *JOBS,
        *((who, "mlflow", PAGES) for who in ("job", "sweep", "hooks")),
        *((who, OUTSIDE, HTTPS) for who in ("job", "sweep", "hooks", "mlflow")),  # S3
        ("caretaker", OUTSIDE, HTTPS),  # the API server
        *((who, OUTSIDE, DATABASE) for who in ("sweep", "hooks", "mlflow", "dashboard")),
    }
    named = ["--set-json", 'networkPolicies.pages=[{"podSelector": {"matchLabels": {"app": "nobody"}}}]']
    assert but_to_strangers_and_names(paths("external", *named)) == expected


def test_a_webhook_outside_is_reached_by_jobs_and_sweeps_alone_where_it_is_named() -> None:
    opened = paths("trying-out", "--set", f"networkPolicies.webhook={HTTPS}") - paths("trying-out")
    assert {who for who, target, port in opened if (target, port) == (OUTSIDE, HTTPS)} == {"job"}  # sweeps were before
    assert {who for who, *_ in opened} <= {"job", "sweep"}


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://10.0.0.7:7070", S3), ("https://s3.example.org", HTTPS), ("https://s3.example.org:5432", DATABASE)],
)
def test_s3_outside_is_reached_at_the_port_of_its_address(endpoint: str, port: int) -> None:
    found = paths("defaults", "--set", f"s3.endpoint={endpoint}")
    assert {there for who, target, there in found if (who, target) == ("job", OUTSIDE)} == {DNS, port}


@pytest.mark.parametrize(
    ("value", "opened"),
    [
        (None, set()),
        ("pages", {("mlflow", PAGES), ("dashboard", DASHBOARD)}),
        ("submitters", {("mlflow", PAGES), ("s3", S3), ("postgresql", DATABASE)}),
    ],
)
def test_who_is_named_reaches_pages_or_what_submitting_needs_and_a_stranger_nothing(
    value: str | None, opened: set[tuple[str, int]]
) -> None:
    peers = '[{"podSelector": {"matchLabels": {"app": "shop"}}}]'
    named = ["--set-json", f"networkPolicies.{value}={peers}"] if value else []
    objects = render(CHART / "ci/trying-out.yaml", *named)
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    labels = pods(objects)
    reached = {
        (target, port)
        for target, port in product(labels, (PAGES, DASHBOARD, DATABASE, S3, ANY))
        if target != "stranger" and allowed(policies, "Ingress", labels[target], labels["stranger"], port)
    }
    assert reached == opened
