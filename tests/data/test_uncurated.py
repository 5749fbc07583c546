"""Uncurated synthetic video: minutes in which little happens, and one event whose times are true."""

from pathlib import Path

import numpy as np
import pytest

from everest.data.decode import read_frames
from everest.data.index import read_index
from everest.data.synthetic import CLASSES
from everest.data.uncurated import EVENTS, synthesize_uncurated
from everest.errors import UsageError
from everest.files import sha256


def make(folder: Path, **changes: int) -> Path:
    settings = dict(train=6, val=2, size=64, seconds=12, seed=5) | changes
    synthesize_uncurated(folder, **settings, progress=lambda done, total: None)
    return folder


@pytest.fixture(scope="module")
def uncurated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("uncurated"))


def test_each_video_has_an_event_of_its_class(uncurated: Path) -> None:
    events = read_index(uncurated / EVENTS)
    lists = [video for split in ("train", "val") for video in read_index(uncurated / f"{split}.csv").videos]
    assert events.classes == CLASSES
    assert [(video.path, video.label) for video in events.videos] == [(video.path, video.label) for video in lists]
    for video in events.videos:
        assert video.end is not None
        assert 1.5 <= video.end - video.start <= 3
        assert 0 < video.start < video.end <= 12


def test_pixels_change_most_between_the_times_of_the_event(uncurated: Path) -> None:
    """Largest difference of neighbouring frames over blocks of 8 x 8 pixels, where noise averages out."""
    for video in read_index(uncurated / EVENTS).videos:
        frames = read_frames(video.path, range(300)).astype(np.float32).mean(-1)
        blocks = np.abs(frames[1:] - frames[:-1]).reshape(299, 8, 8, 8, 8).mean((2, 4)).max((1, 2))
        first, after = round(video.start * 25), round(video.end * 25)
        during = np.zeros(299, bool)
        during[first - 1 : after - 1] = True  # differences[i] is of frames i and i + 1
        assert np.median(blocks[during]) > 1.2 * blocks[~during].max()
        assert blocks[first - 1] > 1.2 * blocks[first - 2]
        assert blocks[after - 2] > 1.2 * blocks[after - 1]


def test_the_same_seed_gives_the_same_files_and_times(uncurated: Path, tmp_path: Path) -> None:
    again, other = make(tmp_path / "again"), make(tmp_path / "other", seed=6)
    for name in (EVENTS, "videos/00000.mp4", "videos/00007.mp4"):
        assert sha256(again / name) == sha256(uncurated / name)
        assert sha256(other / name) != sha256(uncurated / name)


def test_a_finished_set_is_left_alone_and_another_one_refused(uncurated: Path) -> None:
    written = (uncurated / "videos/00000.mp4").stat().st_mtime_ns
    make(uncurated)
    assert (uncurated / "videos/00000.mp4").stat().st_mtime_ns == written
    with pytest.raises(UsageError, match="holds a synthetic set of other settings"):
        make(uncurated, seconds=13)
