"""Frames by their number: those that are shown, whatever the file; and never more than an error on bad ones."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from PIL import Image

import everest
from everest.data.decode import DecodeError, NoSuchFrame, decode
from everest.data.encode import write_video
from everest.data.reader import frames
from everest.data.reader.frames import indexed
from everest.data.reader.picture import Painter
from everest.data.reader.process import reader
from everest.data.reader.window import WHOLE
from everest.data.synthetic import FRAMES_PER_SECOND, render
from everest.errors import EverestError
from tests.conftest import CASES
from tests.data import numbered

EXPECTED: dict[str, Any] = (
    json.loads((CASES / "video/expected.json").read_text()) if (CASES / "video/expected.json").is_file() else {}
)


def evenly(total: int) -> np.ndarray:
    return np.linspace(0, total - 1, 5).astype(int)


def some_of(total: int) -> list[list[int]]:
    """Numbers as a run asks for them, alone and together, the last one among them."""
    rng = np.random.default_rng(total)
    windows = [rng.integers(0, total) + np.arange(4) * 4 for _ in range(3)]
    return [[total - 1], evenly(total).tolist(), *(np.minimum(w, total - 1).tolist() for w in windows)]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "rot90.mp4"] or ["none"])
def test_the_frame_asked_for_is_the_frame_given(cases: Path, name: str) -> None:
    path, expected = cases / "video" / name, EXPECTED[name]
    totals = set()
    for wanted in some_of(expected["frames"]):

        def choose(total: int, wanted: list[int] = wanted) -> np.ndarray:
            totals.add(total)
            return np.array(wanted)

        found = numbered.read(decode(path, None, choose).numpy(), expected["bits"])
        assert found == [expected["numbers"][number] for number in wanted]
    assert expected["frames"] in totals


DECORD_NUMBERS = ["fullrange_601.mp4", "one_frame.mp4", "one_keyframe.mp4", "ref_h264.mp4", "sar_64_45.mp4", "vfr.mp4"]


@pytest.mark.parametrize("name", DECORD_NUMBERS)
def test_decord_gives_the_same_frames_of_files_that_it_numbers_rightly(cases: Path, name: str) -> None:
    path, expected = cases / "video" / name, EXPECTED[name]
    for wanted in some_of(expected["frames"]):
        found = decode(path, None, lambda _, wanted=wanted: np.array(wanted), "decord").numpy()  # type: ignore[misc]
        assert numbered.read(found, expected["bits"]) == [expected["numbers"][number] for number in wanted]
        assert np.abs(found.astype(int) - everest.read_frames(path, wanted)).mean() < 4


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in [*DECORD_NUMBERS, "rot90.mp4"]] or ["none"])
def test_decord_is_refused_where_it_would_give_other_frames(cases: Path, name: str) -> None:
    with pytest.raises(DecodeError, match=r"decord would not .*; use data\.reader av"):
        decode(cases / "video" / name, None, evenly, "decord")


KINDS = {
    "plain.mp4": ("libx264", {"g": "12", "bf": "2"}),
    "open-gop.mkv": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "open-gop.mp4": ("libx265", {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:log-level=none"}),
    "intra-refresh.ts": ("libx264", {"g": "12", "x264-params": "intra-refresh=1"}),
    "b-frames.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "program.mpg": ("mpeg2video", {"g": "12", "bf": "2", "b": "2M"}),
    "hidden.webm": ("libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}),
    "pictures.mov": ("mjpeg", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_have_their_numbers_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    codec, options = KINDS[name]
    path = numbered.write(tmp_path / name, codec, range(40), options, "yuvj420p" if codec == "mjpeg" else "yuv420p")
    assert numbered.read(everest.read_frames(path, range(40))) == list(range(40))
    for wanted in some_of(40):
        assert numbered.read(everest.read_frames(path, wanted)) == wanted


def copy(
    source: Path, target: Path, drop: range = range(0), shift: int = 0, spoil: range = range(0), after: int = 0
) -> Path:
    """The packets of a file once more, some of them left out, later, or zeros ``after`` so many bytes."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            if place in drop:
                continue
            content = bytes(packet)
            made = av.Packet(content[:after] + bytes(packet.size - after) if place in spoil else content)
            made.pts, made.dts, made.time_base = packet.pts + shift, packet.dts + shift, packet.time_base
            made.is_keyframe, made.stream = packet.is_keyframe, stream
            new.mux(made)
    return target


def decoded(path: Path) -> list[int]:
    """What another way of decoding shows: everything from the start, past what is damaged."""
    shown = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                shown += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.InvalidDataError:
                continue
    return numbered.read(np.stack(shown))


@pytest.mark.parametrize(
    "change",
    [{"drop": range(15, 17)}, {"spoil": range(20, 23)}, {"shift": -10_000}],
)
def test_packets_that_are_missing_spoiled_or_early_shift_no_number(tmp_path: Path, change: Any) -> None:
    whole = numbered.write(tmp_path / "whole.mkv", "libx264", range(40), {"g": "12", "bf": "0"})
    path = copy(whole, tmp_path / "changed.mkv", **change)
    expected = decoded(path)
    assert numbered.read(everest.read_frames(path, range(len(expected)))) == expected
    with pytest.raises(NoSuchFrame):
        everest.read_frames(path, [len(expected)])


def test_a_picture_for_each_number_in_any_order_and_as_often_as_asked(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "video.mp4", "libx264", range(30), {"g": "10"})
    assert numbered.read(everest.read_frames(path, [20, 3, 3, 29])) == [20, 3, 3, 29]
    assert numbered.read(everest.read_frames(path, [29, 3, 20])) == [29, 3, 20]
    assert everest.read_frames(path, np.arange(2), short_side=48).shape == (2, 48, 64, 3)
    assert everest.read_frames(path, []).shape == (0, 96, 128, 3)


@pytest.mark.parametrize("wrong", [-1, 30])
def test_a_number_that_no_frame_has_is_one_clear_error(tmp_path: Path, wrong: int) -> None:
    path = numbered.write(tmp_path / "video.mp4", "libx264", range(30))
    with pytest.raises(NoSuchFrame, match=f"has frames 0 to 29, and no frame {wrong}$") as error:
        everest.read_frames(path, [0, wrong])
    assert isinstance(error.value, IndexError | EverestError)
    with pytest.raises(EverestError, match="give a sequence of whole numbers"):
        everest.read_frames(path, [0.5])  # type: ignore[list-item]


def test_a_video_that_does_not_fit_into_memory_is_decoded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_HELD_BYTES", 1000)
    for name in ("plain.mp4", "b-frames.avi"):
        path = numbered.write(tmp_path / name, *KINDS[name][:1], range(40), KINDS[name][1])
        [found] = frames.read(path, WHOLE, lambda total, shape: ([0, 17, 39], Painter(shape, None)))
        assert numbered.read(found) == [0, 17, 39]


def test_only_what_is_decoded_by_index_skips_frames(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "video.mp4", "libx264", range(40), {"g": "10"})
    with indexed(path) as (_, _, found):
        assert found is not None
        assert found.keys == (0, 10, 20, 30)
        assert [found.key_before(number) for number in (0, 9, 10, 39)] == [0, 0, 10, 30]


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
        expected = np.asarray(reference[number].resize(size, Image.Resampling.BILINEAR), float)
        assert np.abs(frame.numpy() - expected).mean() < 2


@pytest.mark.parametrize(
    ("name", "black", "gain", "chroma"),
    [("fullrange_601.mp4", 0, 1.0, (1.402, 0.714136, 0.344136, 1.772)),
     ("ref_h264.mp4", 16, 255 / 219, (1.596027, 0.812968, 0.391762, 2.017232))],
)  # fmt: skip
def test_colours_are_those_of_the_standard(cases: Path, name: str, black: int, gain: float, chroma: Any) -> None:
    """ITU-R BT.601, computed by hand from the decoded planes."""
    with av.open(str(cases / "video" / name)) as container:
        planes = next(container.decode(video=0)).to_ndarray()
    luma = (planes[:96].astype(float) - black) * gain
    blue, red = (planes[at : at + 24].reshape(48, 64).repeat(2, 0).repeat(2, 1) - 128.0 for at in (96, 120))
    to_red, red_of_green, blue_of_green, to_blue = chroma
    expected = np.stack(
        [luma + to_red * red, luma - red_of_green * red - blue_of_green * blue, luma + to_blue * blue], axis=-1
    )
    assert np.abs(everest.read_frames(cases / "video" / name, [0])[0] - expected.clip(0, 255)).mean() < 2.5


def test_pixels_that_are_not_square_are_shown_as_they_should_be(cases: Path) -> None:
    assert everest.read_frames(cases / "video/sar_64_45.mp4", [0]).shape == (1, 96, 182, 3)
    assert everest.read_frames(cases / "video/sar_64_45.mp4", [0], short_side=48).shape == (1, 48, 91, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "Invalid data"),
        ("no_index.mp4", "Invalid data"),
        ("missing.mp4", "no such file"),
        (".", "not a file"),
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


def test_many_reads_leave_no_threads_files_or_memory_behind(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    write_video(video, render("left", 64, 16, np.random.default_rng(0)), FRAMES_PER_SECOND)
    ours = psutil.Process()
    decode(video, 64, evenly)
    child = psutil.Process(reader().process.pid)
    for _ in range(50):
        decode(video, 64, evenly)
    before = [(p.memory_info().rss, p.num_threads(), p.num_fds()) for p in (ours, child)]
    for _ in range(300):
        decode(video, 64, evenly)
    for process, (memory, *rest) in zip((ours, child), before, strict=True):
        assert process.memory_info().rss - memory < 10 * 2**20
        assert [process.num_threads(), process.num_fds()] == rest
