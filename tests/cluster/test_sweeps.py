"""Sweeps whose trials are jobs of a real cluster, on a real PostgreSQL: with faults, and run from inside it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from orchestration.cluster.launcher import KubernetesLauncher
from orchestration.code import working_tree
from orchestration.settings import PlatformSettings
from sweeps.storage import open_storage
from sweeps.study import JOBS, LINES, REASON, Study
from tests.cluster.platform import HOST, Platform
from tests.cluster.runs import checkpoints, logged_steps, tiny
from tests.services import HANGS_S, experiments, postgres, until

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves

WILD, BAD = 1.0, 1e30  # learning rates: the loss is high, likely pruned; it is not finite, the job fails by itself
WILD_IS_LAST = 34  # the seed of such a grid
STEPS = 160


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres(HOST) as address:
        yield address


class Sweep:
    """everest-sweep, as a user with the platform's settings types it."""

    def __init__(self, platform: Platform, database: str) -> None:
        self.platform, self.database = platform, database
        self.environment = {**platform.environment, "EVEREST_STUDIES": database}

    def start(self, *arguments: object, log: Path, **settings: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "sweeps", *map(str, arguments)], text=True, stdin=subprocess.DEVNULL,
            stdout=log.open("a"), stderr=subprocess.STDOUT, env={**self.environment, **settings},
        )  # fmt: skip

    def run(self, *arguments: object, log: Path, **settings: str) -> str:
        """What it said; it must succeed."""
        process = self.start(*arguments, log=log, **settings)
        assert process.wait(HANGS_S) == 0, log.read_text()
        return log.read_text()

    def trials(self, name: str, *states: TrialState) -> list[FrozenTrial]:
        settings = PlatformSettings(studies=self.database)
        try:
            return Study.open(name, open_storage(settings)).trials(*states)
        except Exception as error:
            if "no sweep" in str(error):
                return []
            raise

    def nothing_left(self, name: str) -> bool:
        kinds = (self.platform.kind, "configmaps", "pods")
        return not any(found.startswith(name) for kind in kinds for found in self.platform.names(kind))


@pytest.fixture
def sweep(platform: Platform, database: str) -> Sweep:
    return Sweep(platform, database)


def space_file(folder: Path, name: str, steps: int, rates: list[float], **changes: Any) -> Path:
    words = tiny(steps, **{"optim.warmup_lr": 0.001, "optim.clip_grad": "null", "optim.micro_batch": 1})
    settings = {
        key.removeprefix("--"): yaml.safe_load(value) for key, value in zip(words[::2], words[1::2], strict=True)
    }
    tree = {
        "finetune": {
            "recipe": "demo-finetune",
            "fixed": settings,
            "search": {"optim.lr": {"categorical": rates}},
        },
        "objectives": {"train/loss": "min"},
        "sampler": "grid",
        **changes,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file


def test_six_trials_of_eight_ranks_survive_a_killed_controller_and_a_deleted_pod(
    sweep: Sweep, platform: Platform, tmp_path: Path
) -> None:
    pruning = {"prune": "train/loss", "prune_after": 2, "seed": WILD_IS_LAST}
    file, log = (
        space_file(tmp_path, "six", STEPS, [0.001, 0.002, 0.004, 0.008, WILD, BAD], **pruning),
        tmp_path / "said.txt",
    )
    arguments = ("launch", file, "--launcher", "kubernetes", "--parallel", 2, "--keep-best", 1)
    controller = sweep.start(*arguments, log=log)

    def has_pod() -> bool:
        assert controller.poll() is None, log.read_text()
        return any(pod.startswith("six-") for pod in running_pods(platform))

    until(has_pod, "a pod")
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    pod = next(each for each in running_pods(platform) if each.startswith("six-"))
    platform.kubectl("delete", "pod", pod, "--wait=false")
    assert sweep.start(*arguments, log=log).wait(HANGS_S) == 0, log.read_text()

    said = log.read_text()
    assert re.search(r"six: [12] trials of an earlier controller go on", said)
    trials = sweep.trials("six")
    assert [trial.number for trial in trials] == list(range(6))
    ends = {trial.params["optim.lr"]: trial.state for trial in trials}
    assert ends.pop(BAD) == TrialState.FAIL, said
    assert set(ends.values()) == {TrialState.COMPLETE, TrialState.PRUNED}, said  # the last may end before it is seen
    assert len(sweep.trials("six", TrialState.COMPLETE)) >= 2
    (failed,) = sweep.trials("six", TrialState.FAIL)
    assert "the loss is not finite" in failed.user_attrs[REASON]
    assert any("the loss is not finite" in line for line in failed.user_attrs[LINES])
    for trial in sweep.trials("six", TrialState.COMPLETE):
        (job,) = trial.user_attrs[JOBS]
        assert job == f"six-{trial.number}"
        assert logged_steps(platform, job) == list(range(2, STEPS + 1, 2))
    until(lambda: sweep.nothing_left("six"), "jobs and ConfigMaps to go")
    assert tree(platform, "six") == {f"six-{trial.number}": {f"six-{trial.number}"} for trial in trials}
    best = min(sweep.trials("six", TrialState.COMPLETE), key=lambda trial: trial.value or 0)
    assert [trial.number for trial in trials if checkpoints(platform, f"six-{trial.number}")] == [best.number], said


def running_pods(platform: Platform) -> list[str]:
    found = platform.kubectl("get", "pods", "--field-selector", "status.phase=Running", "-o", "name").split()
    return [name.partition("/")[2] for name in found]


def tree(platform: Platform, study: str) -> dict[str, set[str]]:
    """Names of the study's children in MLflow, and of theirs."""
    import mlflow

    client = mlflow.MlflowClient(platform.mlflow.address)
    runs = client.search_runs(experiments(client), f"tags.`everest.study` = '{study}'", max_results=1000)
    (parent,) = [run for run in runs if run.data.tags.get("everest.kind") == "study"]

    def children(run: Any) -> list[Any]:
        return [each for each in runs if each.data.tags.get("mlflow.parentRunId") == run.info.run_id]

    assert {child.data.tags["everest.state"] for child in children(parent)} <= {"complete", "pruned", "failed"}
    return {
        child.info.run_name.split()[0]: {run.data.tags["everest.run"] for run in children(child)}
        for child in children(parent)
    }


def test_the_controller_runs_in_the_cluster_with_few_rights_and_stops_when_asked(
    sweep: Sweep, platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = space_file(tmp_path, "inside", 20000, [0.001, 0.002], prune="train/loss")
    log = tmp_path / "said.txt"
    arguments = ("launch", file, "--in-cluster", "--parallel", 2)
    said = sweep.run(*arguments, log=log, EVEREST_GPUS="1")
    assert "everest-sweep status inside shows how it goes" in said
    again = sweep.start(*arguments, log=log, EVEREST_GPUS="1")
    assert again.wait(HANGS_S) == 1
    assert "the Job sweep-inside is at work" in log.read_text()

    def has_numbers() -> bool:
        found = sweep.trials("inside", TrialState.RUNNING)
        return len(found) == 2 and all(len(trial.intermediate_values) > 3 for trial in found)

    until(has_numbers, "numbers of both trials", 180, every=1)
    assert "2 running" in sweep.run("status", "inside", log=tmp_path / "status.txt")
    code = working_tree()
    assert code
    for name, value in platform.environment.items():
        monkeypatch.setenv(name, value)
    needs = KubernetesLauncher(PlatformSettings()).needs()
    assert {name: each.code for name, each in needs.items() if name in {"sweep-inside", "inside-0"}} == {
        "sweep-inside": code.digest,
        "inside-0": code.digest,
    }
    for trial in sweep.trials("inside", TrialState.RUNNING):
        job = json.loads(platform.kubectl("get", platform.kind, trial.user_attrs[JOBS][-1], "-o", "json"))
        assert job["metadata"]["annotations"]["everest/code"] == code.digest
    for verb, what, allowed in (
        ("create", platform.kind, True), ("delete", platform.kind, True), ("watch", platform.kind, True),
        ("get", "secrets", False), ("create", "pods", False), ("delete", "configmaps", True), ("get", "nodes", False),
    ):  # fmt: skip
        asked = ["auth", "can-i", verb, what, "--as", f"system:serviceaccount:{platform.namespace}:sweep-inside"]
        answer = subprocess.run(
            ["kubectl", "-n", platform.namespace, *asked], env=platform.environment, capture_output=True, check=False
        )
        assert (answer.stdout.strip() == b"yes") == allowed, (verb, what)

    sweep.run("stop", "inside", "--cancel", log=log)
    until(lambda: sweep.nothing_left("inside"), "its jobs to go", 180, every=1)
    assert {trial.state for trial in sweep.trials("inside")} == {TrialState.WAITING}
    until(lambda: "sweep-inside" in ended_jobs(platform), "the controller to end", 60, every=1)
    platform.kubectl("delete", "job", "sweep-inside", "--wait=true")
    left = ("serviceaccounts", "roles", "rolebindings", "configmaps")
    until(lambda: not any("sweep-inside" in platform.names(kind) for kind in left), "what it needed to go")


def ended_jobs(platform: Platform) -> list[str]:
    path = "{range .items[?(@.status.completionTime)]}{.metadata.name} {end}"
    return platform.kubectl("get", "jobs", "-o", f"jsonpath={path}").split()
