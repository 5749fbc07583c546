"""Jobs that go on with another number of processes end as one process does that nothing happened to."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everest.config import Experiment
from tests.cluster.platform import Platform
from tests.cluster.runs import logged_steps, mlflow_runs, tiny, wait_for_step, weights
from tests.integration.command import Run
from tests.services import HANGS_S, until

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves

STEPS = 120
#: Six micro-batches a step, which takes long enough that something can happen between two.
ARGUMENTS = tiny(STEPS, **{
    "model.image_size": 64, "model.num_frames": 8, "model.embed_dim": 96, "model.depth": 6, "data.rate": 1,
    "optim.batch_size": 12, "optim.micro_batch": 2, "optim.lr": 0.002, "keep.checkpoint_steps": 1000,
})  # fmt: skip
ONE = {"EVEREST_GPUS": "1", "EVEREST_MEMORY": "4Gi", "EVEREST_OPERATOR": "pytorchjob"}


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The experiment in one process of this machine; it goes on meanwhile."""
    changes = {name.removeprefix("--"): value for name, value in zip(ARGUMENTS[::2], ARGUMENTS[1::2], strict=True)}
    there = {"data.train": videos / "train.csv", "data.val": videos / "val.csv", "init": None, "name": "undisturbed"}
    return Run(Experiment.load("demo-finetune").override({**changes, **there}), tmp_path_factory.mktemp("undisturbed"))


def ended_as(undisturbed: Run, platform: Platform, run: str) -> None:
    assert undisturbed.process.wait(HANGS_S) == 0
    assert logged_steps(platform, run) == list(range(2, STEPS + 1, 2))
    client, (found,) = mlflow_runs(platform, run)
    losses = {entry.step: entry.value for entry in client.get_metric_history(found.info.run_id, "train/loss")}
    expected = {line["step"]: line["train/loss"] for line in undisturbed.metrics() if "train/loss" in line}
    assert losses == pytest.approx(expected, rel=1e-4)
    ours = weights(platform, run)
    for name, tensor in load_file(undisturbed.folder / "model/model.safetensors").items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


@contextmanager
def cordoned(platform: Platform) -> Iterator[None]:
    """No new pod finds a node."""
    nodes = platform.kubectl("get", "nodes", "-o", "name").split()
    free = [node for node in nodes if not platform.kubectl("get", node, "-o", "jsonpath={.spec.unschedulable}")]
    platform.kubectl("cordon", *free)
    try:
        yield
    finally:
        platform.kubectl("uncordon", *free)


def teams(platform: Platform, run: str) -> list[int]:
    """How many processes worked together, one time after the other."""
    log = platform.jobs("logs", run, "--rank", "0").out
    return [int(found) for found in re.findall(r"(\d+) process(?:es)? on cpu", log)]


@pytest.mark.long
def test_a_job_goes_on_without_a_pod_that_is_lost_and_takes_up_the_one_that_comes_in_its_place(
    platform: Platform, undisturbed: Run
) -> None:
    elastic = {"EVEREST_NODES": "2..3", **ONE}
    waiting = platform.start("submit", "demo-finetune", "--name", "elastic", *ARGUMENTS, "--wait", **elastic)
    wait_for_step(platform, "elastic", 4)
    with cordoned(platform):
        platform.kubectl("delete", "pod", "elastic-worker-0", "--wait=false")
        until(lambda: 2 in teams(platform, "elastic"), "a team of two", every=2)
        said = platform.jobs("status", "elastic").out
        assert re.search(r"^why +2 of 3 pods run; no node takes the pod", said, re.M), said
    _, err = waiting.communicate(timeout=HANGS_S)
    assert waiting.returncode == 0, err
    assert re.search(r"elastic continues at step \d+:.* 3 processes on cpu", platform.jobs("logs", "elastic").out)
    ended_as(undisturbed, platform, "elastic")


def test_a_cancelled_job_goes_on_with_another_number_of_gpus(platform: Platform, undisturbed: Run) -> None:
    begun = platform.jobs("submit", "demo-finetune", "--name", "fewer", *ARGUMENTS, EVEREST_GPUS="2")
    assert begun.code == 0, begun.err
    wait_for_step(platform, "fewer", 4)
    assert platform.jobs("cancel", "fewer").code == 0
    done = platform.jobs("submit", "demo-finetune", "--name", "fewer", *ARGUMENTS, "--wait", **ONE)
    assert done.code == 0, done.err
    log = platform.jobs("logs", "fewer").out
    assert re.search(r"fewer continues at step \d+", log)
    assert teams(platform, "fewer") == [2, 1]
    ended_as(undisturbed, platform, "fewer")
