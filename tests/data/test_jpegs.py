"""Videos as JPEGs, one frame after another: the frames, their number and their pixels are those of ``decode``."""

import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from everest.data.decode import DecodeError, decode, jpegs, pictures
from everest.data.reader.frames import Begin, Facts, Picture
from everest.data.reader.process import reader
from tests.data import numbered
from tests.data.test_decode import EXPECTED, KINDS, copy
from tests.services import HANGS_S


def taken(path: Path, short_side: int = 48, every: int = 1, **window: Any) -> tuple[Facts, list[bytes]]:
    """As one who packs takes them: what came before facts does not count."""
    facts: Facts | None = None
    frames: list[bytes] = []
    for found in jpegs(path, short_side, 90, every, **window):
        if isinstance(found, Facts):
            facts, frames = found, []
        else:
            frames.append(found)
    assert facts
    return facts, frames


def expected(path: Path, short_side: int = 48, every: int = 1, **window: Any) -> list[bytes]:
    """Of what ``decode`` gives."""
    pictures = decode(path, short_side, lambda total: np.arange(0, total, every), **window).numpy()
    return [simplejpeg.encode_jpeg(picture, quality=90, colorsubsampling="420") for picture in pictures]


@pytest.mark.parametrize("name", EXPECTED or ["none"])
def test_jpegs_are_of_the_frames_and_pixels_that_decode_gives(cases: Path, name: str) -> None:
    path = cases / "video" / name
    whole = decode(path, None, lambda total: np.zeros(1, int))
    for every in (1, 3):
        facts, frames = taken(path, every=every)
        assert frames == expected(path, every=every)
        assert (facts.shown_height, facts.shown_width) == whole.shape[1:3]
        assert simplejpeg.decode_jpeg(frames[0]).shape[:2] == (facts.height, facts.width)
        assert min(facts.height, facts.width) == 48


@pytest.mark.parametrize("name", ["plain.mp4", "b-frames.avi"])
def test_jpegs_of_a_window(tmp_path: Path, name: str) -> None:
    path = numbered.write(tmp_path / name, *KINDS[name][:1], range(40), KINDS[name][1])
    facts, frames = taken(path, short_side=96, every=2, start=0.4, end=0.8)
    assert facts == Facts(96, 128, 96, 128, 12.5)
    assert frames == expected(path, short_side=96, every=2, start=0.4, end=0.8)
    assert numbered.read(np.stack([simplejpeg.decode_jpeg(frame) for frame in frames])) == [10, 12, 14, 16, 18]
    with pytest.raises(DecodeError, match=r"no frame between 8 and 9 s; the video has 1\.6 s"):
        taken(path, start=8, end=9)


@pytest.mark.parametrize(
    "change", [{"drop": range(15, 17)}, {"spoil": range(20, 23)}, {"spoil": range(20, 23), "after": 6}]
)
@pytest.mark.parametrize("every", [1, 4])
def test_where_packets_promise_too_much_it_begins_anew(tmp_path: Path, change: Any, every: int) -> None:
    whole = numbered.write(tmp_path / "whole.mkv", "libx264", range(40), {"g": "12", "bf": "0"})
    path = copy(whole, tmp_path / "changed.mkv", **change)
    assert taken(path, every=every)[1] == expected(path, every=every)
    if "after" in change:
        kinds = [isinstance(found, Facts) for found in jpegs(path, 48, 90, every)]
        assert kinds[0]
        assert sum(kinds) == 2


def test_the_limit_is_between_frames(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "video.mp4", "libx264", range(200))
    decode(path, 32, np.arange)
    process = reader().process
    running = jpegs(path, 512, 90, time_limit=1)
    assert len(list(islice(running, 3))) == 3
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(DecodeError, match=r"reading it took longer than 1 s \(data.time_limit\)"):
        list(running)
    process.wait(HANGS_S)
    assert len(decode(path, 32, np.arange)) == 200


def test_other_videos_may_be_read_in_between_and_the_rest_left(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "video.mp4", "libx264", range(30))
    other = numbered.write(tmp_path / "other.mp4", "libx264", range(30, 40))
    running = jpegs(path, 96, 90)
    assert isinstance(next(running), Facts)
    first = next(running)
    assert numbered.read(decode(other, None, np.arange).numpy()) == list(range(30, 40))
    assert [first, *running] == expected(path, short_side=96)
    left = jpegs(path, 96, 90)
    assert isinstance(next(left), Facts)
    left.close()  # type: ignore[attr-defined]
    assert numbered.read(decode(other, None, np.arange).numpy()) == list(range(30, 40))


def test_one_reader_makes_the_jpegs_of_many_videos(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "video.mp4", "libx264", range(5))
    taken(path)
    process = reader().process
    taken(path)
    with pytest.raises(DecodeError, match="no such file"):
        taken(tmp_path / "none.mp4")
    assert reader().process is process


@pytest.mark.parametrize("name", ["plain.mp4", "b-frames.avi"])
def test_pictures_are_the_frames_that_decode_gives_and_when_they_are_shown(tmp_path: Path, name: str) -> None:
    path = numbered.write(tmp_path / name, *KINDS[name][:1], range(40), KINDS[name][1])
    begin, *found = pictures(path, 48, every=3)
    assert isinstance(begin, Begin)
    assert begin.facts == Facts(48, 64, 96, 128, pytest.approx(25 / 3))
    assert begin.seconds == pytest.approx(1.6, abs=0.1)
    expected = decode(path, 48, lambda total: np.arange(0, total, 3)).numpy()
    assert [picture.seconds for picture in found if isinstance(picture, Picture)] == pytest.approx(np.arange(14) * 0.12)
    assert np.array_equal([picture.pixels for picture in found if isinstance(picture, Picture)], expected)
