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


def test_two_processes_learn_the_same_from_the_same_total_batch_as_one(synthetic: Path, tmp_path: Path) -> None:
    """Whatever is drawn per process is left out: every kept token but one is visible, and paths are never dropped."""
    changes = {"optim.steps": 6, "model.drop_path": 0.0, "data.val": None, "augment.flip": False}
    plain = {"augment.mixup": 0, "augment.cutmix": 0, "augment.erase": 0, "augment.rand_augment": None}
    one = tiny("finetune", synthetic, **changes, **plain, **{"optim.batch_size": 8})
    two = one.override({"optim.batch_size": 4})
    runs = [Run(one, tmp_path / "one"), Run(two, tmp_path / "two", processes=2)]
    assert [run.wait() for run in runs] == [0, 0]
    expected, found = (weights(run) for run in runs)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-4)
