"""Pictures of one video are never lost to those of another."""

import shutil
from pathlib import Path

import pytest

from everest.cli import command
from everest.export import Exported, save_model
from everest.model.registry import classifier
from tests.conftest import tiny


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


def test_a_picture_of_nobody_knows_what_stays(model: Path, synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    out.mkdir()
    (out / "00016.png").write_text("mine")
    draw(model, out, synthetic / "videos/00016.mp4")
    assert (out / "00016.png").read_text() == "mine"
    assert {file.name for file in out.iterdir()} == {"00016.png", "00016.mp4.png", "00016.mp4.gif"}
