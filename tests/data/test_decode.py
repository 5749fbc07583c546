"""Decoding: against another decoder on good files, and never more than an error on bad ones."""

from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from everest.data.decode import DecodeError, decode
from everest.data.synthetic import render, write_video


def evenly(total: int) -> np.ndarray:
    return np.linspace(0, total - 1, 5).astype(int)


GOOD = ["arm_wrestling.mp4", "dog.mp4", "flipping_a_pancake.mkv", "movie_scene.mp4", "part_0.mp4", "test.avi"]


@pytest.mark.parametrize("name", GOOD)
def test_frames_are_those_that_pyav_decodes(clips: Path, name: str) -> None:
    with av.open(str(clips / name)) as container:
        reference = [frame.to_image() for frame in container.decode(video=0)]
    wanted = np.array([0, 7, len(reference) // 2, len(reference) // 2])
    found = decode(clips / name, 120, lambda total: wanted)
    assert min(found.shape[1:3]) == 120
    for number, frame in zip(wanted, found, strict=True):
        size = (found.shape[2], found.shape[1])
        expected = np.asarray(reference[number].resize(size, Image.Resampling.BICUBIC), float)
        assert np.abs(frame.numpy() - expected).mean() < 6
        if number:
            other = np.asarray(reference[0].resize(size, Image.Resampling.BICUBIC), float)
            assert np.abs(frame.numpy() - expected).mean() < np.abs(frame.numpy() - other).mean()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "Invalid data"),
        ("no_index.mp4", "Invalid data"),
        ("corrupted.mp4", "decoding failed"),
        ("missing.mp4", "no such file"),
    ],
)
def test_a_broken_file_is_one_line_of_reason(clips: Path, name: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason) as error:
        decode(clips / "odd" / name, 64, evenly)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("truncated.mkv", (64, 114)),
        ("unordered.mov", (64, 64)),
        ("video_0.mov", (64, 114)),
        ("video_180.mov", (64, 114)),
        ("video_90.mov", (114, 64)),
        ("video_270.mov", (114, 64)),
    ],
)
def test_odd_but_readable_files_are_read_the_right_way_up(clips: Path, name: str, shape: tuple[int, int]) -> None:
    assert decode(clips / "odd" / name, 64, evenly).shape == (5, *shape, 3)


def test_a_thousand_reads_leave_no_threads_files_or_memory_behind(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    write_video(video, render("left", 64, 16, np.random.default_rng(0)))
    process = psutil.Process()
    for _ in range(100):
        decode(video, 64, evenly)
    before = process.memory_info().rss, process.num_threads(), process.num_fds()
    for _ in range(1000):
        decode(video, 64, evenly)
    assert process.memory_info().rss - before[0] < 20 * 2**20
    assert (process.num_threads(), process.num_fds()) == before[1:]
