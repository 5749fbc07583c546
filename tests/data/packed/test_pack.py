"""Packed sets: the frames, order and choices of their list, whole or not there, never other frames."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import everest
from everest.config import Experiment
from everest.data.bad import TooManyBad
from everest.data.clips import EvaluationViews, TrainClips
from everest.data.decode import DecodeError
from everest.data.index import VideoIndex, read_files, read_index, read_packed
from everest.data.packed.check import verdicts
from everest.data.packed.format import FRAME
from everest.data.packed.manifest import Manifest, read_manifest
from everest.data.packed.pack import Packing, Part, how_to_pack
from everest.data.packed.place import Folder, place_at
from everest.data.packed.source import Source, source_at
from everest.data.packed.videos import PackedVideos
from everest.errors import EverestError, UsageError
from tests.conftest import tiny
from tests.data import numbered
from tests.services import HANGS_S

PackedIndex = VideoIndex[PackedVideos]
ROOT = Path(__file__).resolve().parents[3]
LENGTHS = (40, 21, 33, 12, 50)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled list of numbered videos, and one among them that is none."""
    folder = tmp_path_factory.mktemp("videos")
    lines = []
    for place, length in enumerate(LENGTHS):
        numbered.write(folder / f"v{place}.mp4", "libx264", range(length), {"g": "9"})
        lines.append(f"v{place}.mp4,{'even' if place % 2 == 0 else 'odd'}")
    (folder / "none.mp4").write_text("not a video")
    lines.insert(3, "none.mp4,odd")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


@pytest.fixture(scope="module")
def packed(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedIndex:
    return pack(listed, tmp_path_factory.mktemp("packed"))


def pack(listed: Path, out: Path, part: str = "1/1", max_bad: float = 0.5, **how: int) -> PackedIndex:
    packing = packing_of(listed, out, part, max_bad, **how)
    packing.begin()
    packing.pack(workers=2)
    packing.finish()
    return read_packed(out)


def packing_of(listed: Path, out: Path, part: str = "1/1", max_bad: float = 0.5, **how: int) -> Packing:
    source = Source(read_files(listed), lambda video: nullcontext(video.path))
    chosen = how_to_pack(source.index, **{"short_side": 96, **how})
    return Packing(source, chosen, Folder(out), Part.parse(part), max_bad, time_limit=HANGS_S)


def manifest_of(index: PackedIndex) -> Manifest:
    return read_manifest(place_at(index.source))


def damaged(index: PackedIndex) -> list[str]:
    found = verdicts(place_at(index.source), manifest_of(index), workers=2)
    return [verdict.path for verdict in found if verdict.unreadable]


def experiment(stage: str = "pretrain", **changes: object) -> Experiment:
    return tiny(stage, Path(), **{"data.rate": 2, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files that are there for anybody."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_ordinary_tools_open_the_tar_files_and_see_every_frame(packed: PackedIndex, listed: Path) -> None:
    pictures: dict[int, list[np.ndarray]] = {}
    facts = {}
    for file in sorted(Path(packed.source).glob("shards/*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                video, _, name = member.name.partition("/")
                content = tar.extractfile(member)
                assert content
                if name == "video.json":
                    facts[int(video)] = json.load(content)
                else:
                    assert name == f"{len(pictures.get(int(video), [])):06d}.jpg"
                    pictures.setdefault(int(video), []).append(np.asarray(Image.open(content)))
    assert sorted(pictures) == [0, 1, 2, 4, 5]
    for video, frames in pictures.items():
        name = facts[video]["name"]
        truth = everest.read_frames(listed.parent / name, range(len(frames)), short_side=96)
        assert facts[video]["frames"] == len(frames) == LENGTHS[int(name[-5])]
        assert facts[video]["rate"] == pytest.approx(25, rel=0.01)
        assert numbered.read(np.stack(frames)) == list(range(len(frames)))
        assert np.abs(np.stack(frames).astype(int) - truth).mean() < 3


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_order_labels_and_random_choices_are_those_of_the_list(packed: PackedIndex, listed: Path, stage: str) -> None:
    """Also which video stands in for the one that cannot be read."""
    config = experiment(stage, **{"data.repeats": 2, "augment.rand_augment": None})
    raw = read_index(listed)
    assert packed.classes == raw.classes
    assert [video.label for video in packed.videos] == [video.label for video in raw.videos]
    clips = [TrainClips(index, config) for index in (raw, packed)]
    for key in [(epoch, video) for epoch in range(4) for video in range(len(raw.videos))]:
        ours, theirs = (dataset[key] for dataset in clips)
        assert ours.label == theirs.label
        assert Path(ours.path).name == Path(theirs.path).name
        assert [Path(path).name for path in ours.bad] == [Path(path).name for path in theirs.bad]
        difference = (torch.stack([*ours.frames]).float() - torch.stack([*theirs.frames]).float()).abs().mean()
        assert difference < 6, f"{key}: {difference}"


def test_views_of_a_test_are_those_of_the_list(packed: PackedIndex, listed: Path) -> None:
    raw = read_index(listed)
    for video in (0, 1, 5):
        ours, theirs = (
            torch.stack([*EvaluationViews(index, experiment(), 2, 3)[video].frames]) for index in (raw, packed)
        )
        assert ours.shape == theirs.shape
        assert (ours.float() - theirs.float()).abs().mean() < 6


def test_frames_may_be_thinned(listed: Path, tmp_path: Path) -> None:
    thin = pack(listed, tmp_path, every=4)
    video = thin.videos[0]
    frames = video.frames(np.arange, 96, experiment().data)
    assert numbered.read(frames.numpy()) == list(range(0, LENGTHS[0], 4))


def test_windows_of_a_list_are_packed_as_videos_of_their_own(listed: Path, tmp_path: Path) -> None:
    """At 25 frames a second, 0.4 s are ten."""
    windows = listed.with_name("windows.csv")
    windows.write_text("v0.mp4,a,0.4,0.8\nv0.mp4,b,0.8,\nv4.mp4,a\n")
    packed = pack(windows, tmp_path)
    assert [video.name for video in packed.videos] == ["v0.mp4 [0.4-0.8 s]", "v0.mp4 [from 0.8 s]", "v4.mp4"]
    assert [video.label for video in packed.videos] == [0, 1, 0]
    shown = [numbered.read(video.frames(np.arange, 96, experiment().data).numpy()) for video in packed.videos]
    assert shown == [list(range(10, 20)), list(range(20, LENGTHS[0])), list(range(LENGTHS[4]))]


def test_a_broken_video_is_left_out_with_its_reason_and_keeps_its_place(packed: PackedIndex) -> None:
    assert len(packed.videos) == 6
    assert manifest_of(packed).bad == {"none.mp4": "Invalid data found when processing input"}
    with pytest.raises(DecodeError, match="Invalid data"):
        packed.videos[3].frames(np.arange, 96, experiment().data)


def test_too_many_broken_videos_end_the_packing(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(TooManyBad, match=r"1 of 6 videos are unreadable, more than data.max_bad 0.1: .*none.mp4"):
        pack(listed, tmp_path, max_bad=0.1)
    with pytest.raises(UsageError, match="is not packed to its end; type its everest data pack again"):
        read_packed(tmp_path)


_PACK = [sys.executable, "-m", "everest", "data", "pack", "--short-side", "96", "--max-bad", "0.5", "--workers", "2"]


def test_it_begins_without_torch(listed: Path, tmp_path: Path) -> None:
    """Which takes longer to import than a part of a small set to pack."""
    program = "import sys; from everest.cli import command; sys.exit(command(sys.argv[1:]) or 'torch' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", program, *_PACK[3:], str(listed), str(tmp_path)], cwd=ROOT, check=True, timeout=HANGS_S
    )


def test_killed_at_any_time_and_typed_again_it_ends_with_the_same_bytes(
    packed: PackedIndex, listed: Path, tmp_path: Path
) -> None:
    command = [*_PACK, str(listed), str(tmp_path / "out")]
    for seconds in (0.0, 0.1, 0.3, 0.6):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        while not (tmp_path / "out").exists() and process.poll() is None and time.monotonic() - began < HANGS_S:
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        process.wait(HANGS_S)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=HANGS_S)
    assert done.stdout.startswith(f"{tmp_path}/out: 6 videos, 1 left out, 2 classes, 156 frames,")
    assert contents(tmp_path / "out") == contents(Path(packed.source))


def test_parts_in_any_order_end_with_the_same_bytes(packed: PackedIndex, listed: Path, tmp_path: Path) -> None:
    for part in ("3/4", "1/4", "4/4"):
        packing = packing_of(listed, tmp_path, part)
        packing.begin()
        packing.pack(workers=1)
        assert packing.finish() is None
        assert packing.missing > 0
    pack(listed, tmp_path, "2/4")
    assert contents(tmp_path) == contents(Path(packed.source))


def test_parts_at_the_same_time_end_with_the_same_bytes(packed: PackedIndex, listed: Path, tmp_path: Path) -> None:
    commands = [[*_PACK, "--part", f"{part}/2", str(listed), str(tmp_path)] for part in (1, 2, 1)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(HANGS_S) for process in processes] == [0, 0, 0]
    assert contents(tmp_path) == contents(Path(packed.source))


def test_a_part_begins_beside_another_that_began_between_its_two_looks(listed: Path, tmp_path: Path) -> None:
    """As parts do in S3, where nothing keeps one from beginning while another looks."""
    first, second = (packing_of(listed, tmp_path, part) for part in ("1/2", "2/2"))
    looked = Folder.text

    def late(place: Folder, name: str) -> str | None:
        found = looked(place, name)
        with pytest.MonkeyPatch.context() as undisturbed:
            undisturbed.setattr(Folder, "text", looked)
            undisturbed.setattr(Folder, "alone", lambda *_: nullcontext())
            first.begin()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "text", late)
        second.begin()
    for part in (first, second):
        part.pack(workers=1)
    assert second.finish() is not None


def test_a_place_that_holds_something_else_is_refused(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and no packed set; choose another place"):
        pack(listed, tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}
    pack(listed, tmp_path / "out")
    with pytest.raises(UsageError, match=r"was begun otherwise \(short_side 96 -> 48\); choose another place"):
        pack(listed, tmp_path / "out", short_side=48)


def test_a_packed_set_is_not_packed_again(packed: PackedIndex, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="is a packed set already; give the list or folder that it was made from"),
        source_at(str(packed.source), None),
    ):
        pass


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_part_is_one_of_several(text: str) -> None:
    with pytest.raises(UsageError, match=f"--part {re.escape(text)}: must be one of several, as 3/8"):
        Part.parse(text)


@pytest.fixture
def copy(packed: PackedIndex, tmp_path: Path) -> PackedIndex:
    return read_packed(shutil.copytree(packed.source, tmp_path / "copy"))


def all_frames(index: VideoIndex) -> Iterator[torch.Tensor]:
    for video in index.videos:
        if "none" not in video.name:
            yield video.frames(np.arange, 96, experiment().data)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_flipped_byte_anywhere_in_a_frame_is_an_error_and_never_other_frames(copy: PackedIndex) -> None:
    shard = Path(copy.source) / "shards/00000.tar"
    rows = np.fromfile(shard.with_suffix(".idx"), FRAME)
    middle = int(rows[7]["offset"]) + int(rows[7]["length"]) // 2
    flip(shard, middle)
    with pytest.raises(EverestError, match=r"copy/shards/00000.tar: frames of .*v0.mp4 are not those that were packed"):
        list(all_frames(copy))
    assert [
        verdict.path for verdict in verdicts(place_at(copy.source), manifest_of(copy), 2) if verdict.unreadable
    ] == ["shards/00000.tar"]


@pytest.mark.parametrize("byte", range(FRAME.itemsize))
def test_a_flipped_byte_in_the_index_is_an_error_and_never_other_frames(copy: PackedIndex, byte: int) -> None:
    flip(Path(copy.source) / "frames.idx", 7 * FRAME.itemsize + byte)
    with pytest.raises(EverestError, match=r"copy/shards/00000.tar:? .*pack"):
        list(all_frames(copy))


def test_frames_of_another_video_or_in_another_order_are_an_error(copy: PackedIndex) -> None:
    """Each as it was written, but in the place of another."""
    rows = Path(copy.source) / "frames.idx"
    table = np.fromfile(rows, FRAME)
    table[[3, 4]] = table[[4, 3]]
    table.tofile(rows)
    with pytest.raises(EverestError, match="are not those that were packed"):
        list(all_frames(copy))


@pytest.mark.parametrize("name", ["shards/00001.tar", "frames.idx", "videos.npy", "paths.bin"])
def test_a_missing_or_changed_file_is_one_line(copy: PackedIndex, name: str) -> None:
    file = Path(copy.source) / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EverestError, match=rf"{name} is (shorter|not as it was)") as cut:
        list(all_frames(read_packed(Path(copy.source))))
    assert "\n" not in str(cut.value)
    file.unlink()
    with pytest.raises(EverestError, match=rf"copy/{name} is missing; pack the set again"):
        list(all_frames(read_packed(Path(copy.source))))
    assert name in damaged(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"how": {}}', "\x00"])
def test_a_manifest_that_is_none_is_one_line(copy: PackedIndex, text: str) -> None:
    (Path(copy.source) / "manifest.json").write_text(text)
    with pytest.raises(EverestError, match=r"copy/manifest.json is not the manifest of a packed set"):
        read_packed(Path(copy.source))


def test_a_set_of_a_later_version_is_refused(copy: PackedIndex) -> None:
    file = Path(copy.source) / "manifest.json"
    file.write_text(file.read_text().replace("packed set 1", "packed set 2"))
    with pytest.raises(EverestError, match="is 'everest packed set 2', and 'everest packed set 1' is"):
        read_packed(Path(copy.source))


def test_processes_are_handed_where_the_set_is_and_not_what_is_in_it(packed: PackedIndex) -> None:
    sent = pickle.dumps(packed)
    assert len(sent) < 6000
    again = pickle.loads(sent)
    assert [video.name for video in again.videos] == [video.name for video in packed.videos]


def test_labels_are_those_of_the_training(packed: PackedIndex) -> None:
    relabelled = packed.with_classes(("odd", "other", "even"))
    assert [video.label for video in relabelled.videos] == [2, 0, 2, 0, 0, 2]
    assert [video.label for video in pickle.loads(pickle.dumps(relabelled)).videos] == [2, 0, 2, 0, 0, 2]
    with pytest.raises(UsageError, match="which training does not have"):
        packed.with_classes(("odd", "other"))


def test_the_manifest_says_from_what_and_how(packed: PackedIndex, listed: Path) -> None:
    manifest = Manifest.parse((Path(packed.source) / "manifest.json").read_text(), "here")
    assert manifest.how.source == read_index(listed).digest()
    assert (manifest.how.short_side, manifest.how.quality, manifest.how.every) == (96, 90, 1)
    assert manifest.frames == sum(LENGTHS)
    assert manifest.digest() == packed.digest()


def test_ctrl_c_ends_it_with_a_word_and_it_goes_on(listed: Path, tmp_path: Path) -> None:
    command = [*_PACK, str(listed), str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, process_group=0)
    while not (tmp_path / "out/pack.json").exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=HANGS_S)
    if process.returncode:
        assert process.returncode == 130
        assert "Traceback" not in said
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=HANGS_S)
    assert read_manifest(place_at(tmp_path / "out")).frames == sum(LENGTHS)
