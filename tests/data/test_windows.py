"""Windows of videos: the frames shown from a start on and before an end, numbered from 0, and no others."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

import everest
from everest.data.check import verdicts
from everest.data.crop import Crop
from everest.data.decode import DecodeError, cut, decode
from everest.data.files import VideoFile, VideoFiles
from everest.data.index import VideoIndex
from everest.data.video import Cut
from everest.errors import EverestError
from tests.data import numbered
from tests.data.test_decode import EXPECTED, KINDS

WINDOWS: list[tuple[float, float | None]] = [
    (0, None), (0, 0.28), (0.28, 0.8), (0.281, 0.8), (0.5, 0.56), (1.2, None), (7 * 0.04, 1), (1.5, 100),
]  # fmt: skip


@pytest.fixture(params=["plain.mp4", "b-frames.avi", "open-gop.mkv", "hidden.webm", "program.mpg"], scope="module")
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames, 25 a second; of some the packets tell their times, others are read from the start."""
    codec, options = KINDS[request.param]
    return numbered.write(tmp_path_factory.mktemp("windows") / request.param, codec, range(40), options)


@pytest.mark.parametrize(("start", "end"), WINDOWS)
def test_frames_of_a_window_are_those_shown_in_it(video: Path, start: float, end: float | None) -> None:
    expected = [n for n in range(40) if n >= round(start * 25, 6) and (end is None or n < round(end * 25, 6))]
    whole = decode(video, None, np.arange, start=start, end=end).numpy()
    assert numbered.read(whole) == expected
    last = len(expected) - 1
    assert numbered.read(everest.read_frames(video, [last, 0], start=start, end=end)) == [expected[-1], expected[0]]
    clip = cut(video, lambda total, *_: Cut(np.array([0, total - 1]), (Crop(0, 0, 1, 1),), 96), start=start, end=end)
    assert numbered.read(clip[0].numpy()) == [expected[0], expected[-1]]
    with pytest.raises(EverestError, match=f"has frames 0 to {last}, and no frame {last + 1}$"):
        everest.read_frames(video, [last + 1], start=start, end=end)


@pytest.mark.parametrize("name", ["vfr.mp4", "kinetics_cut.mp4", "negpts.mp4", "mpeg2.ts", "x264_opengop60.mp4"])
def test_uneven_and_shifted_times_count_from_the_first_frame_shown(cases: Path, name: str) -> None:
    path, expected = cases / "video" / name, EXPECTED[name]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [float(frame.pts * stream.time_base) for frame in container.decode(stream) if frame.pts is not None]
    if name == "kinetics_cut.mp4":  # what lies before the cut is decoded here, and not shown
        times = times[-expected["frames"] :]
    assert len(times) == expected["frames"]
    for start, end in pairwise([0, 0.5, 0.77, 1.3]):
        inside = [number for number, time in enumerate(times) if start <= round(time - times[0], 9) < end]
        found = decode(path, None, np.arange, start=start, end=end).numpy()
        assert numbered.read(found, expected["bits"]) == [expected["numbers"][number] for number in inside]


def test_where_a_file_has_no_times_the_rate_tells_them(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "bare.h264", "libx264", range(40), {"g": "10"})
    assert numbered.read(decode(path, None, np.arange, start=0.4, end=0.8).numpy()) == list(range(10, 20))


def test_windows_next_to_each_other_share_out_the_frames(video: Path) -> None:
    edges = [0.0, 0.1, 0.33, 0.7, 1.1111, 9]
    found = [numbered.read(decode(video, None, np.arange, start=s, end=e).numpy()) for s, e in pairwise(edges)]
    assert [number for some in found for number in some] == list(range(40))


def test_a_window_without_frames_says_how_long_the_video_is(video: Path) -> None:
    with pytest.raises(DecodeError, match=r"^no frame between 8 and 16 s; the video has 1\.6 s$"):
        decode(video, None, np.arange, start=8, end=16)
    with pytest.raises(DecodeError, match=r"^no frame from 2 s on; the video has 1\.6 s$"):
        decode(video, None, np.arange, start=2)
    with pytest.raises(DecodeError, match=r"^no frame between 0\.41 and 0\.43 s"):
        decode(video, None, np.arange, start=0.41, end=0.43)


def test_decord_keeps_to_windows(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "video.mp4", "libx264", range(40), {"g": "12"})
    assert numbered.read(decode(path, None, np.arange, "decord", start=0.6, end=1).numpy()) == list(range(15, 25))


@pytest.mark.parametrize("deep", [False, True])
def test_a_check_looks_at_the_window_alone(video: Path, deep: bool) -> None:
    windows = [(0.0, None), (0.6, 1.0), (1.0, None), (3.0, 4.0)]
    files = VideoFiles.of([VideoFile(video, None, start, end) for start, end in windows])
    found = list(verdicts(VideoIndex(video.parent, files, ()), workers=1, deep=deep))
    assert [verdict.unreadable for verdict in found] == [None] * 3 + ["no frame between 3 and 4 s; the video has 1.6 s"]
    assert [verdict.remark for verdict in found] == [None] * 4
