"""Many videos in little memory, which processes share."""

import os
import pickle
import random
from collections.abc import Iterator
from hashlib import sha256
from multiprocessing import resource_sharer
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from everest.config import DataConfig, Experiment
from everest.data.check import verdicts
from everest.data.crop import Crop
from everest.data.decode import decode
from everest.data.encode import write_video
from everest.data.files import VideoFile, VideoFiles
from everest.data.index import VideoIndex, read_index
from everest.data.synthetic import FRAMES_PER_SECOND, render
from everest.data.video import Cut
from everest.data.workers import worker_context

MANY = 50_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    file = tmp_path_factory.mktemp("many") / "list.txt"
    file.write_text("".join(f"train/playing guitar/{number:011d}.mp4 {number % 400}\n" for number in range(MANY)))
    return read_index(file)


def test_an_index_holds_little_more_than_the_paths_characters(many: VideoIndex) -> None:
    kept = sum(shared.values.nbytes for shared in vars(many.videos).values() if hasattr(shared, "values"))
    assert kept / MANY <= len("train/playing guitar/00000000000.mp4") + 13
    assert len(many.videos) == MANY
    assert many.videos[-1] == VideoFile(many.source.parent / f"train/playing guitar/{MANY - 1:011d}.mp4", 399)


def test_another_process_is_handed_the_memory_and_no_copy(many: VideoIndex) -> None:
    try:
        assert len(ForkingPickler.dumps(many)) < 10_000
    finally:
        resource_sharer.stop()
    context = worker_context(Experiment())
    ours, theirs = context.Pipe()
    with ours, theirs:
        process = context.Process(target=_answer, args=(many, theirs))
        process.start()
        assert ours.poll(120)
        videos, labels, files = pickle.loads(ours.recv_bytes())
        process.join(120)
    assert videos == [many.videos[number] for number in range(0, MANY, 997)]
    assert labels == [number % 400 for number in range(MANY)]
    assert files == _files(many)


def _answer(index: VideoIndex, connection: Connection) -> None:
    some = [index.videos[number] for number in range(0, MANY, 997)]
    connection.send_bytes(pickle.dumps((some, index.videos.labels.tolist(), _files(index))))


def _files(index: VideoIndex) -> list[int]:
    """Which ones its memory is: their numbers, as the system counts them."""
    shared = [kept for kept in vars(index.videos).values() if hasattr(kept, "values")]
    return [os.fstat(kept._file.descriptor).st_ino for kept in shared]


def test_videos_are_those_that_were_put_in_and_cannot_be_changed(tmp_path: Path) -> None:
    given = [
        VideoFile(tmp_path / "é.mp4", 1),
        VideoFile(Path("here.mp4"), None),
        VideoFile(Path(os.fsdecode(b"/caf\xe9.mp4")), 0),
        VideoFile(Path("a\nb.mp4"), 3),
    ]
    videos = VideoFiles.of(given)
    assert list(videos) == given
    assert [videos[-1], *videos[1:3]] == [given[3], given[1], given[2]]
    assert videos.labels.tolist() == [1, -1, 0, 3]
    assert list(videos.with_labels(np.array([5, -1, 6, 7]))) == [
        video._replace(label=label) for video, label in zip(given, (5, None, 6, 7), strict=True)
    ]
    with pytest.raises(IndexError):
        videos[4]
    with pytest.raises(ValueError, match="read-only"):
        videos.labels[0] = 2
    assert list(VideoFiles.of([])) == []


def test_videos_of_a_folder_are_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = random.Random(0)
    for _ in range(200):
        parts = ["".join(names.choices("ab-. +é", k=2)).strip(" .") or "c" for _ in range(names.randint(1, 3))]
        video = tmp_path.joinpath(*parts[:-1], parts[-1] + names.choice([".mp4", ".avi", "-1.mp4"]))
        video.parent.mkdir(parents=True, exist_ok=True)
        video.touch()
    (tmp_path / "run").mkdir()
    labelled = tmp_path.rename(tmp_path.with_name("all"))
    (labelled.parent / "set").mkdir()
    labelled = labelled.rename(labelled.parent / "set" / "class")
    expected = sorted(path for path in labelled.rglob("*") if path.is_file())
    assert [video.path for video in read_index(labelled.parent).videos] == expected


def test_what_is_there_again_with_another_value_is_found_however_it_is_spelled() -> None:
    drawn = random.Random(1)
    for _ in range(200):
        given = [
            VideoFile(
                Path(drawn.choice("abc")), drawn.randrange(3), drawn.choice([0.0, 1.0]), drawn.choice([None, 2.0])
            )
            for _ in range(drawn.randint(1, 12))
        ]
        videos = VideoFiles.of(given)
        expected = [
            number
            for number, (path, label, *window) in enumerate(given)
            if any(
                (other.path.name == "c") == (path.name == "c") and [*other[2:]] == window and other.label != label
                for other in given
            )
        ]
        spelled = {"./a": "a", "./b": "a", "./c": "c"}
        assert videos.repeated(spelled.__getitem__, videos.labels) == expected


def test_a_check_takes_no_more_videos_than_it_is_about_to_try(tmp_path: Path) -> None:
    taken = []

    def videos() -> Iterator[VideoFile]:
        for number in range(1000):
            taken.append(number)
            yield VideoFile(tmp_path / "gone.mp4", None)

    found = verdicts(SimpleNamespace(videos=videos()), workers=2)
    assert next(found).path == f"{tmp_path}/gone.mp4"
    found.close()
    assert len(taken) < 100


@pytest.mark.parametrize("root", ["", "videos", "..", "/elsewhere"])
def test_a_digest_is_that_of_paths_as_seen_from_the_list(tmp_path: Path, root: str) -> None:
    paths = [
        "a.mp4",
        "./b.mp4",
        "c/../d.mp4",
        "/abs/e.mp4",
        f"{tmp_path}/f.mp4",
        f"{tmp_path.parent}/g.mp4",
        "h//i.mp4",
    ]
    (tmp_path / "list.txt").write_text("".join(f"{path} {label}\n" for label, path in enumerate(paths)))
    index = read_index(tmp_path / "list.txt", tmp_path / root if root else None)
    lines = [f"{os.path.relpath(tmp_path / root / path, tmp_path)}\0{label}" for label, path in enumerate(paths)]
    expected = sha256("\n".join([*lines, *map(str, range(len(paths)))]).encode()).hexdigest()[:16]
    assert index.digest() == expected


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of video."""
    file = tmp_path_factory.mktemp("long") / "long.mp4"
    write_video(file, render("right", 64, 25, np.random.default_rng(0)), FRAMES_PER_SECOND)
    return file


def test_windows_of_a_list_are_decoded_and_cut_as_videos_of_their_own(long: Path) -> None:
    (long.parent / "list.csv").write_text("path,label,start,end\nlong.mp4,0,0.2,0.6\nlong.mp4,1,0.6,\nlong.mp4,2,,\n")
    whole = decode(long, 64, np.arange)
    videos, totals = read_index(long.parent / "list.csv").videos, []

    def plan(total: int, height: int, width: int) -> Cut:
        totals.append(total)
        return Cut(np.arange(total), (Crop(0, 0, 1, 1),), 64)

    for video, frames in zip(videos, (whole[5:15], whole[15:], whole), strict=True):
        assert torch.equal(video.frames(np.arange, 64, DataConfig()), frames)
        [clip] = video.cut(plan, DataConfig())
        assert torch.equal(clip, frames)
        assert totals[-1] == len(frames)


def test_a_check_tries_windows(long: Path) -> None:
    (long.parent / "list.csv").write_text("long.mp4,0,0.2,0.6\nlong.mp4,0,0.6,0.9\nlong.mp4,1,30,31\n")
    found = list(verdicts(read_index(long.parent / "list.csv"), workers=1, deep=True))
    assert [verdict.path for verdict in found] == [f"{long} [{window} s]" for window in ("0.2-0.6", "0.6-0.9", "30-31")]
    assert [bool(verdict.unreadable) for verdict in found] == [False, False, True]
