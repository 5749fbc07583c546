"""``everest find``: what it writes, and that it writes all of it or nothing."""

import json
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import pytest
import torch
from PIL import Image

from everest.cli import command
from everest.data.encode import write_video
from everest.data.index import read_index
from everest.export import load_model, save_model
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest
from everest.training.local import FolderStore, JsonLinesTracker
from everest.training.run import run
from tests.conftest import tiny


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """20 s of noise; a bright square flies through in the 12th second."""
    rng = np.random.default_rng(0)
    frames = rng.integers(40, 48, (500, 48, 64, 3)).astype(np.uint8)
    for number in range(25):
        frames[300 + number, 16:32, number : number + 16] = 230
    write_video(tmp_path / "a film.mp4", frames, 25)
    return tmp_path / "a film.mp4"


def test_the_list_the_numbers_the_picture_and_the_film_are_of_the_same_intervals(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command(["find", str(video), "--out", str(out), "--top", "2", "--length", "1.5", "--film"]) == 0
    found = json.loads((out / "a film.json").read_text())
    first, second = found["intervals"]
    assert first["start"] <= 12 + 0.2
    assert first["end"] >= 13 - 0.2
    assert first["score"] > 0.5 > second["score"]
    assert sum(found["steps"]["kept"]) <= found["kept"]
    windows = read_index(out / "a film.csv").videos
    assert [(w.path, w.start, w.end) for w in windows] == [
        (video, pytest.approx(i["start"], abs=0.01), pytest.approx(i["end"], abs=0.01)) for i in (first, second)
    ]
    with Image.open(out / "a film.png") as picture:
        assert min(picture.size) > 300
    with av.open(str(out / "a film.mp4")) as film:
        bright = [frame.to_ndarray(format="gray").max() > 150 for frame in film.decode(video=0)]
    assert abs(len(bright) - 75) <= 2
    assert sum(bright) >= 24
    printed = capsys.readouterr().out
    assert f"{first['start']:.2f} s to {first['end']:9.2f} s" in printed
    assert command(["find", str(video), "--out", str(out), "--top", "2", "--length", "1.5"]) == 0
    assert sorted(file.name for file in out.iterdir()) == [f"a film.{kind}" for kind in ("csv", "json", "mp4", "png")]


def test_a_broken_video_is_one_line_and_the_others_are_searched(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    code = command(["find", str(tmp_path / "broken.mp4"), str(video), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert code == 1
    assert [line for line in said.err.splitlines() if line.startswith("everest: ")][1:] == [
        "everest: 1 of 2 videos could not be read"
    ]
    assert (tmp_path / "out/a film.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top", "0"], "--top 0: must be more than 0"),
        (["--length", "-1"], "--length -1: must be more than 0"),
        (["--keep", "2"], "--keep 2: must be a share, more than 0 and at most 1"),
    ],
)
def test_wrong_usage_is_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["find", "none.mp4", *flags]) == 2
    assert capsys.readouterr().err == f"everest: {message}\n"


def test_a_video_in_which_nothing_changes_has_no_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "still.mp4", np.full((50, 32, 32, 3), 90, np.uint8), 25)
    assert command(["find", str(tmp_path / "still.mp4"), "--out", str(tmp_path / "out"), "--film"]) == 0
    assert "in which nothing changes" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/still.json").read_text())["intervals"] == []


@pytest.fixture
def panned(tmp_path: Path) -> Path:
    """8 s: a camera rests before a world that stands still, and pans for 3 s; a square moves in the 7th second."""
    rng = np.random.default_rng(0)
    world = rng.integers(60, 160, (8, 40, 3)).astype(np.uint8).repeat(12, axis=0).repeat(12, axis=1)
    place = np.clip(np.arange(200) - 25, 0, 75) * 2
    frames = np.stack([world[:, x : x + 96] for x in place])
    for number in range(25):
        frames[150 + number, 40:56, number : number + 16] = 230
    write_video(tmp_path / "panned.mp4", frames, 25)
    return tmp_path / "panned.mp4"


@pytest.mark.parametrize(("method", "seconds"), [("rero", (1, 4)), ("residual", (6, 7))])
def test_a_camera_that_pans_is_found_unless_its_motion_is_taken_back(
    panned: Path, tmp_path: Path, method: str, seconds: tuple[int, int]
) -> None:
    found = ["find", str(panned), "--out", str(tmp_path), "--top", "1", "--length", "1", "--method", method]
    assert command(found) == 0
    [interval] = json.loads((tmp_path / "panned.json").read_text())["intervals"]
    assert seconds[0] - 0.5 < interval["start"]
    assert interval["end"] < seconds[1] + 0.5


def test_a_trained_run_finds_by_its_own_embedding_sizes_and_rate(video: Path, synthetic: Path, tmp_path: Path) -> None:
    config = tiny("pretrain", synthetic, **{"optim.epochs": 1, "optim.warmup_epochs": 0, "data.rate": 5})
    folder = tmp_path / "run"
    tracker, stop = JsonLinesTracker(folder / "metrics.jsonl"), StopRequest()
    run(config, folder, FolderStore(folder / "checkpoints"), tracker, Process(0, 1, torch.device("cpu")), stop)
    search = ["find", str(video), "--model", str(folder), "--out", str(tmp_path / "out"), "--top", "1", "--length", "1"]
    assert command(search) == 0
    found = json.loads((tmp_path / "out/a film.json").read_text())
    [interval] = found["intervals"]
    assert interval["start"] < 12.5 < interval["end"]
    assert found["tokens_of_a_step"] == 4 * 5  # of 32 pixels by 42, in patches of 8
    assert found["steps"]["begin"][1] == pytest.approx(10 / 25, abs=0.01)

    exported = load_model(folder)
    torch.nn.init.zeros_(exported.model.patch_embed.proj.weight)  # that of a model that sees nothing
    save_model(folder / "model", exported)
    assert command(search) == 0
    assert json.loads((tmp_path / "out/a film.json").read_text())["intervals"] == []


def interrupt(*_: Any, **__: Any) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["everest.find.timeline.Look.importance", "everest.find.show.write_video"])
def test_ctrl_c_leaves_nothing_half_written(
    video: Path, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(when, interrupt)
        assert command(["find", str(video), "--film", "--out", str(out)]) == 130
    whole = [f"a film.{kind}" for kind in ("csv", "json", "png")] if "show" in when else []
    assert sorted(file.name for file in out.rglob("*")) == whole
