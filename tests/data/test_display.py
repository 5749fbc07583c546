"""Videos that are turned or mirrored when shown are read as ffmpeg shows them."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import everest
from everest.data.crop import Crop
from everest.data.decode import DecodeError, cut, decode
from everest.data.video import Cut
from tests.data import numbered

#: Where (x, y) is shown: x' = a x + c y, y' = b x + d y. All that turn by quarters and mirror.
MATRICES = {
    "as stored": (1, 0, 0, 1), "right": (0, 1, -1, 0), "half": (-1, 0, 0, -1), "left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1), "upside down": (1, 0, 0, -1), "transposed": (0, 1, 1, 0), "across": (0, -1, -1, 0),
}  # fmt: skip


@pytest.fixture(params=MATRICES, scope="module")
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a camera would write it: frames are stored as always, and the track says how to show them."""
    path = numbered.write(tmp_path_factory.mktemp("display") / "video.mp4", "libx264", range(12), {"g": "4"})
    head, track, rest = path.read_bytes().partition(b"tkhd")
    at = 4 + 36  # of version 0: flags, then times, number, duration, reserved, layer, group, volume
    a, b, c, d = MATRICES[request.param]
    one, last = 1 << 16, 1 << 30
    matrix = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, last], ">i4").tobytes()
    path.write_bytes(head + track + rest[:at] + matrix + rest[at + 36 :])
    return path


def shown(path: Path, height: int, width: int) -> np.ndarray:
    """All frames, by ffmpeg."""
    if not (ffmpeg := shutil.which("ffmpeg")):
        pytest.skip("no ffmpeg on this machine")
    command = [ffmpeg, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)


def test_frames_are_shown_as_ffmpeg_shows_them(video: Path) -> None:
    found = everest.read_frames(video, range(12))
    truth = shown(video, *found.shape[1:3])
    assert found.shape == truth.shape
    assert np.abs(found.astype(int) - truth).mean() < 4
    small = everest.read_frames(video, [7], short_side=48)[0]
    assert np.abs(small[::2, ::2].astype(int) - truth[7, ::4, ::4]).mean() < 12


@pytest.mark.parametrize("crop", [Crop(0, 0, 0.5, 0.25), Crop(0.5, 0.25, 0.5, 0.75), Crop(0.25, 0, 0.5, 1)])
def test_parts_are_those_of_what_is_shown(video: Path, crop: Crop) -> None:
    heard = []

    def plan(total: int, height: int, width: int) -> Cut:
        heard.append((height, width))
        return Cut(np.array([3, 11]), (crop,), 48)

    [clip] = cut(video, plan).numpy()
    height, width = heard[-1]
    left, top, wide, tall = crop.box(height, width)
    part = shown(video, height, width)[[3, 11], top : top + tall, left : left + wide]
    rows, columns = (np.arange(48) * side // 48 for side in (tall, wide))
    assert np.abs(clip.astype(int) - part[:, rows][:, :, columns]).mean() < 12


def test_decord_shows_the_same_or_refuses(video: Path) -> None:
    try:
        found = decode(video, None, np.arange, "decord").numpy()
    except DecodeError as error:
        assert "use data.reader av" in str(error)  # noqa: PT017
        return
    assert np.abs(found.astype(int) - everest.read_frames(video, range(12))).mean() < 4
