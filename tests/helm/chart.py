"""The chart as helm renders it, without a cluster."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.platform import ROOT, Done, run

CHART = ROOT / "helm/everest"
SCENARIOS = sorted(CHART.glob("ci/*.yaml"))


def helm(*words: object) -> Done:
    """Skips where there is no helm."""
    program = shutil.which("helm") or pytest.skip("no helm")
    return run(program, *words)


def render(values: Path, *more: str, release: str = "everest", namespace: str = "default") -> list[dict[str, Any]]:
    """Every object of a scenario."""
    done = helm("template", release, CHART, "--namespace", namespace, "--values", values, *more)
    assert done.code == 0, done.err
    return [each for each in yaml.safe_load_all(done.out) if each]


def pod_of(each: dict[str, Any]) -> dict[str, Any] | None:
    """The pod, or the template of one, that an object holds."""
    if each["kind"] == "CronJob":
        each = each["spec"]["jobTemplate"]
    return each if each.get("kind") == "Pod" else each.get("spec", {}).get("template")
