"""Pictures of one video are never lost to those of another."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everest.cli import command
from everest.data.index import read_index
from everest.export import Exported, save_model
from everest.figures import draw_still
from everest.masks import METHODS
from everest.model.registry import classifier, pretrain_model
from tests.conftest import pack, tiny


@pytest.fixture
def model(synthetic: Path, tmp_path: Path) -> Path:
    config = tiny("finetune", synthetic)
    save_model(tmp_path / "model", Exported(classifier(config, 2), config, ("a", "b")))
    return tmp_path / "model"


def draw(model: Path, out: Path, *videos: Path) -> None:
    assert command(["figures", str(model), "--out", str(out), "--video", *map(str, videos)]) == 0


def test_a_later_call_draws_over_its_own_pictures_and_over_no_others(
    model: Path, synthetic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "drawn"
    monday, tuesday = tmp_path / "monday/clip.mp4", tmp_path / "tuesday/clip.mp4"
    for number, video in ((16, monday), (17, tuesday)):
        video.parent.mkdir()
        shutil.copy(synthetic / f"videos/000{number}.mp4", video)
    draw(model, out, monday)
    first = {file: file.read_bytes() for file in out.iterdir()}
    assert {file.name for file in first} == {"clip.png", "clip.gif"}
    draw(model, out, tuesday)
    assert {file: file.read_bytes() for file in first} == first
    both = {file.name for file in out.iterdir()}
    assert both == {"clip.png", "clip.gif", "clip.mp4.png", "clip.mp4.gif"}
    draw(model, out, tuesday, monday)
    assert {file.name for file in out.iterdir()} == both
    assert {file: file.read_bytes() for file in first} == first


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_draws_nothing_from_the_generator_that_training_draws_from(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It may be drawn in a thread beside it, so that not even for a moment it may."""
    config = tiny("pretrain", synthetic, **{"mask.method": method})
    exported = Exported(pretrain_model(config).eval(), config, ())
    used: list[object] = []
    real = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **how: used.append(how["generator"]) or real(*size, **how))
    for name in ("manual_seed", "set_rng_state"):
        monkeypatch.setattr(torch, name, lambda *_, name=name: pytest.fail(f"torch.{name}"))
    before = torch.get_rng_state()
    draw_still(exported, read_index(synthetic / "train.csv").videos[0], tmp_path / "picture.png")
    assert torch.get_rng_state().equal(before)
    assert used
    assert None not in used


def test_a_picture_of_nobody_knows_what_stays(model: Path, synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    out.mkdir()
    (out / "00016.png").write_text("mine")
    draw(model, out, synthetic / "videos/00016.mp4")
    assert (out / "00016.png").read_text() == "mine"
    assert {file.name for file in out.iterdir()} == {"00016.png", "00016.mp4.png", "00016.mp4.gif"}


def test_videos_of_a_packed_set_are_drawn_as_those_it_was_made_from(
    model: Path, synthetic: Path, tmp_path: Path
) -> None:
    out, listed = tmp_path / "drawn", tmp_path / "two.txt"
    listed.write_text("\n".join(str(synthetic / f"videos/000{number}.mp4") for number in (16, 17)))
    for name in ("one", "other"):
        pack(listed, tmp_path / name)
    draw(model, out, tmp_path / "one", tmp_path / "other")
    assert len({file.name for file in out.iterdir()}) == 8
    draw(model, tmp_path / "raw", synthetic / "videos/00016.mp4")
    with Image.open(out / "00016.png") as packed, Image.open(tmp_path / "raw/00016.png") as raw:
        assert packed.size == raw.size
        assert np.abs(np.asarray(packed, float) - np.asarray(raw, float)).mean() < 3  # JPEG, and the title
