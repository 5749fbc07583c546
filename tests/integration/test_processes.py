"""Runs in processes of their own, and what signals do to them."""

import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import tiny
from tests.integration.command import Run

STEPS = 150


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model/model.safetensors")


@pytest.mark.parametrize(
    ("processes", "signals"),
    [
        (1, {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}),
        (2, {signal.SIGKILL: -9, signal.SIGTERM: 1}),  # torchrun's own exit codes
    ],
)
def test_a_run_killed_again_and_again_ends_with_the_weights_of_one_never_killed(
    synthetic: Path, tmp_path: Path, processes: int, signals: dict[signal.Signals, int]
) -> None:
    changes = {"optim.steps": STEPS, "data.workers": 2 - processes, "keep.checkpoint_steps": 7, "keep.log_steps": 3}
    changes |= {"optim.micro_batch": 4 // processes, "keep.checkpoint_minutes": 0.01}
    config = tiny("pretrain", synthetic, **changes)
    whole = Run(config, tmp_path / "whole", processes)
    for number, (sent, code) in enumerate(signals.items()):
        killed = Run(config, tmp_path / "killed", processes)
        killed.wait_for_step(40 * number + random.Random(processes).randrange(5, 25))
        assert killed.kill(sent) == code
        assert not (killed.folder / "result.json").exists()
        if sent != signal.SIGKILL:
            saved = max(path.name for path in (killed.folder / "checkpoints").glob("step-*"))
            assert 0 <= int(saved[5:13]) - killed.metrics()[-1]["step"] < 3
    resumed = Run(config, tmp_path / "killed", processes)
    assert whole.wait() == 0
    assert resumed.wait() == 0

    expected, found = weights(whole), weights(resumed)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert [line["step"] for line in resumed.metrics()] == list(range(3, STEPS + 1, 3))
    assert [line["train/loss"] for line in resumed.metrics()] == [line["train/loss"] for line in whole.metrics()]
    if processes == 1:
        log = (tmp_path / "killed/log.txt").read_text()
        assert log.count("saved; the same command continues") == 2
        assert "Traceback" not in log


@pytest.mark.parametrize(
    ("stage", "whole_too"),
    [("finetune", []), *(pytest.param(stage, [2, 4], marks=pytest.mark.long) for stage in ("pretrain", "finetune"))],
)
def test_any_number_of_processes_learns_the_same_and_goes_on_with_another_number(
    synthetic: Path, tmp_path: Path, stage: str, whole_too: list[int]
) -> None:
    """Whatever is drawn at random is part of the experiment: masks, mixing, erasing, paths dropped, frames chosen.

    One run goes on with 4, 2 and 1 processes; ``whole_too`` are numbers that never change.
    """
    shared = {"optim.batch_size": 8, "optim.micro_batch": 2, "optim.steps": 30, "keep.checkpoint_steps": 2}
    drawn = {"frames.select": True, "augment.mixup": 0.8} if stage == "finetune" else {"data.repeats": 2}
    config = tiny(stage, synthetic, **shared, **drawn, **{"data.val": None, "optim.epochs": 15})
    whole = [Run(config, tmp_path / f"whole-{processes}", processes) for processes in (1, *whole_too)]
    assert {run.wait() for run in whole} == {0}
    for step, processes in ((5, 4), (15, 2)):
        killed = Run(config, tmp_path / "killed", processes)
        killed.wait_for_step(step)
        killed.kill(signal.SIGKILL)
        assert not (killed.folder / "result.json").exists()
    resumed = Run(config, tmp_path / "killed")
    assert resumed.wait() == 0

    one, *others = whole
    for run in (*others, resumed):
        assert [line["step"] for line in run.metrics()] == list(range(1, 31))
        losses = [[line["train/loss"] for line in each.metrics()] for each in (run, one)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        for name, tensor in weights(one).items():
            torch.testing.assert_close(weights(run)[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.long
@pytest.mark.parametrize(("mode", "apart"), [("optim.recompute", 1e-6), ("optim.compile", 1e-3)])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_two_processes_that_recompute_or_compile_learn_as_two_that_do_neither(
    synthetic: Path, tmp_path: Path, stage: str, mode: str, apart: float
) -> None:
    config = tiny(stage, synthetic, **{"optim.micro_batch": 2, "data.val": None})
    runs = [Run(config.override({mode: on}), tmp_path / f"{on}", 2) for on in (False, True)]
    assert [run.wait() for run in runs] == [0, 0], (tmp_path / "True/log.txt").read_text()
    losses = [[line["train/loss"] for line in run.metrics()] for run in runs]
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], abs=apart, rel=0)
