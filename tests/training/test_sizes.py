"""Whole runs on clips of other sizes, and from weights that learned on another one."""

import logging
import math
from pathlib import Path
from statistics import mean

import pytest
import torch

from everest.data.synthetic import synthesize
from everest.export import load_model
from everest.model.classifier import Classifier
from everest.model.positions import Grid, stretched_positions
from everest.training import run as module
from tests.conftest import tiny
from tests.training.test_run import KillAt, Killed, assert_same, numbers, start, weights


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_final_figures", lambda *_: None)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_frames": 64, "image_size": 56, "patch_size": 14, "tubelet_size": 4},
        {"num_frames": 24, "image_size": 64, "patch_size": 16},
        {"num_frames": 2, "image_size": 384, "patch_size": 32, "tubelet_size": 1},
    ],
    ids=["64 frames, patches of 14", "24 frames", "384 px, patches of 32"],
)
def test_both_stages_run_on_clips_of_any_size(synthetic: Path, tmp_path: Path, sizes: dict[str, int]) -> None:
    changes = {f"model.{name}": value for name, value in sizes.items()} | {"optim.steps": 1, "optim.batch_size": 2}
    start(tiny("pretrain", synthetic, **changes), tmp_path / "pretrain")
    begun = {"init": tmp_path / "pretrain", "model.drop_path": 0.0}
    result = start(tiny("finetune", synthetic, **changes, **begun), tmp_path / "finetune")
    assert all(map(math.isfinite, result.metrics.values()))
    config = load_model(tmp_path / "finetune").config.model
    assert {name: getattr(config, name) for name in sizes} == sizes


def test_from_8_frames_of_64_pixels_to_16_of_96_it_begins_with_what_was_learned_and_learns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when it is killed on the way."""
    data = tmp_path / "data"
    synthesize(data, train=16, val=8, size=64, frames=16, seed=0, progress=lambda done, total: None)
    small = {"model.patch_size": 16, "model.num_frames": 8, "model.image_size": 64, "data.rate": 1}
    start(tiny("pretrain", data, **small), tmp_path / "pretrain")
    config = tiny(
        "finetune", data, init=tmp_path / "pretrain",
        **small | {
            "model.num_frames": 16, "model.image_size": 96, "model.drop_path": 0.0, "optim.epochs": 10,
            "optim.lr": 0.3, "data.val": None, "augment.rand_augment": None, "augment.erase": 0, "augment.mixup": 0,
            "augment.cutmix": 0, "augment.flip": False, "augment.label_smoothing": 0, "augment.crop_area": (0.9, 1.0),
        },
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        start(config, tmp_path / "finetune")
    assert "positions stretched from 4 steps of 4 x 4 places to 8 steps of 6 x 6 places" in caplog.text
    losses = [line["train/loss"] for line in numbers(tmp_path / "finetune") if "train/loss" in line]
    assert losses[0] == pytest.approx(math.log(8), rel=0.05)
    assert mean(losses[-8:]) < 0.9 * math.log(8)

    there, model = weights(tmp_path / "pretrain"), load_model(tmp_path / "finetune").model
    assert isinstance(model, Classifier)
    assert torch.equal(model.positions.table, stretched_positions(Grid(4, 4), Grid(8, 6), 48))
    first = config.override({"optim.steps": 1, "optim.lr": 1e-9, "optim.min_lr": 0, "optim.warmup_lr": 0})
    start(first, tmp_path / "first")
    for name, tensor in weights(tmp_path / "first").items():
        if f"encoder.{name}" in there:
            torch.testing.assert_close(tensor, there[f"encoder.{name}"], atol=1e-7, rtol=0)

    with pytest.raises(Killed):
        start(config, tmp_path / "killed", KillAt(20, "train/loss"))
    start(config, tmp_path / "killed")
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "finetune"))
