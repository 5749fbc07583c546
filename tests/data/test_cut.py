"""Clips cut out of a video as it is decoded: the frames that were asked for, and of them the part, scaled once."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

import everest
from everest.data.crop import Crop
from everest.data.decode import cut
from everest.data.video import Cut, Plan
from tests.data import numbered
from tests.data.test_decode import EXPECTED

WHOLE = Crop(0, 0, 1, 1)
CROPS = (
    WHOLE,
    Crop(0, 0, 0.5, 0.66),
    Crop(0.5, 0.34, 0.5, 0.66),  # up to the edges
    Crop(0.137, 0.211, 0.403, 0.555),
    Crop(0, 0.2, 1, 0.1),
    Crop(0.36, 0.1, 0.5, 0.5),  # from an odd column
)


def of(numbers: list[int], crops: tuple[Crop, ...] = (WHOLE,), size: int = 96) -> Plan:
    return lambda total, height, width: Cut(np.array(numbers), crops, size)


def expected(path: Path, numbers: list[int], crop: Crop, size: int) -> torch.Tensor:
    """Whole frames, cropped and scaled by torchvision."""
    frames = torch.from_numpy(everest.read_frames(path, numbers)).permute(0, 3, 1, 2)
    height, width = frames.shape[2:]
    top, left = round(crop.top * height), round(crop.left * width)
    tall, wide = round(crop.height * height), round(crop.width * width)
    part = frames[..., top : top + tall, left : left + wide]
    scaled = v2.functional.resize(part, [size, size], InterpolationMode.BILINEAR, antialias=True)
    return scaled.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "rot90.mp4"] or ["none"])
def test_clips_are_of_the_frames_asked_for(cases: Path, name: str) -> None:
    wanted = np.linspace(0, EXPECTED[name]["frames"] - 1, 6).astype(int).tolist()
    wanted = sorted([*wanted, wanted[-1]])
    clips = cut(cases / "video" / name, of(wanted, (WHOLE, Crop(0, 0, 1, 0.5))))
    truth = [EXPECTED[name]["numbers"][number] for number in wanted]
    assert numbered.read(clips[0].numpy(), EXPECTED[name]["bits"]) == truth
    assert numbered.read(clips[1].numpy(), EXPECTED[name]["bits"]) == truth


def textured(path: Path, width: int, height: int, codec: str, pix_fmt: str) -> Path:
    """Four frames of soft, coloured blobs."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for _ in range(4):
            coarse = torch.from_numpy(rng.integers(80, 176, (3, height // 20, width // 20), dtype=np.uint8))
            picture = v2.functional.resize(coarse, [height, width], InterpolationMode.BICUBIC).permute(1, 2, 0)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.numpy()), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("width", "height", "codec", "pix_fmt"),
    [
        (128, 96, "libx264", "yuv420p"),
        (127, 95, "ffv1", "yuv420p"),
        (133, 71, "ffv1", "yuv422p10le"),
        (130, 98, "libx265", "yuv420p10le"),
        (130, 98, "rawvideo", "nv12"),
        (130, 98, "rawvideo", "yuyv422"),
        (96, 98, "ffv1", "bgr0"),
        (98, 96, "ffv1", "gray"),
        (99, 96, "ffv1", "yuv411p"),
    ],
)
@pytest.mark.parametrize("size", [32, 160])
def test_parts_look_as_those_cut_out_of_whole_frames(
    tmp_path: Path, width: int, height: int, codec: str, pix_fmt: str, size: int
) -> None:
    path = textured(tmp_path / "video.mkv", width, height, codec, pix_fmt)
    clips = cut(path, of([0, 3], CROPS, size))
    for crop, clip in zip(CROPS, clips, strict=True):
        assert (clip.float() - expected(path, [0, 3], crop, size).float()).abs().mean() < 4, crop


@pytest.mark.parametrize("name", ["part_0.mp4", "dog.mp4", "test.avi", "odd/video_90.mov", "odd/video_180.mov"])
def test_parts_of_real_videos_look_right_way_up_too(clips: Path, name: str) -> None:
    found = cut(clips / name, of([0, 2], CROPS, 112))
    for crop, clip in zip(CROPS, found, strict=True):
        assert (clip.float() - expected(clips / name, [0, 2], crop, 112).float()).abs().mean() < 4, crop


def test_parts_of_pixels_that_are_not_square(cases: Path) -> None:
    path = cases / "video/sar_64_45.mp4"
    for crop, clip in zip(CROPS, cut(path, of([0, 40], CROPS, 64)), strict=True):
        assert (clip.float() - expected(path, [0, 40], crop, 64).float()).abs().mean() < 6, crop


@pytest.mark.parametrize("name", ["odd/video_90.mov", "dog.mp4", "test.avi"])
def test_a_plan_hears_the_size_as_it_is_shown(clips: Path, name: str) -> None:
    heard = []

    def plan(total: int, height: int, width: int) -> Cut:
        heard.append((height, width))
        return Cut(np.array([0]), (Crop(0, 0, 0.5 if height > width else 1, 1),), 32)

    [clip] = cut(clips / name, plan)
    assert heard[-1] == everest.read_frames(clips / name, [0]).shape[1:3]
    portrait = heard[-1][0] > heard[-1][1]
    truth = expected(clips / name, [0], Crop(0, 0, 0.5 if portrait else 1, 1), 32)
    assert (clip.float() - truth.float()).abs().mean() < 4


def test_a_video_is_asked_once_and_numbers_may_depend_on_the_size(clips: Path) -> None:
    asked = []

    def plan(total: int, height: int, width: int) -> Cut:
        asked.append((total, height, width))
        return Cut(np.array([1 if height > width else 0]), (WHOLE,), 32)

    cut(clips / "arm_wrestling.mp4", plan)
    assert asked == [(280, 256, 427)]  # as its pixels are not square
    [clip] = cut(clips / "odd/video_90.mov", plan)
    truth = expected(clips / "odd/video_90.mov", [1], WHOLE, 32)
    assert (clip.float() - truth.float()).abs().mean() < 4


@pytest.mark.parametrize("name", ["ref_h264.mp4", "sar_64_45.mp4", "vfr.mp4"])
def test_decord_cuts_the_same(cases: Path, name: str) -> None:
    numbers = [3, 20, 20, EXPECTED[name]["frames"] - 1]
    plan = of(numbers, CROPS[:3])
    ours, theirs = (cut(cases / "video" / name, plan, reader) for reader in ("av", "decord"))
    assert numbered.read(theirs[0].numpy()) == [EXPECTED[name]["numbers"][number] for number in numbers]
    assert (ours.float() - theirs.float()).abs().mean() < 4
