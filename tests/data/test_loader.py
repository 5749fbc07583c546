"""Batches: their order, their randomness, and what happens to unreadable videos."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from everest.config import Experiment
from everest.data import portions
from everest.data.bad import BadVideos, TooManyBad
from everest.data.clips import EvaluationViews, TrainClips
from everest.data.decode import decode
from everest.data.files import VideoFiles
from everest.data.index import VideoFile, VideoIndex, read_index
from everest.data.loader import TrainOrder, evaluation_loader, train_loader
from everest.data.synthetic import synthesize
from everest.errors import EverestError


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder, train=16, val=8, size=32, frames=8, seed=0, progress=lambda done, total: None)
    return read_index(folder / "train.csv")


def experiment(**changes: object) -> Experiment:
    tiny = {"model.image_size": 32, "model.patch_size": 8, "model.num_frames": 4, "data.rate": 2, "data.workers": 0}
    schedule = {"optim.epochs": 3, "optim.warmup_epochs": 0, "optim.batch_size": 4}
    return Experiment().override({**tiny, **schedule, **changes})


def test_an_epoch_takes_every_video_once_in_another_order_each_time() -> None:
    batches = list(TrainOrder(16, experiment()))
    epochs = [[v for batch in batches[i : i + 4] for v in batch] for i in (0, 4, 8)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(video for _, video in epoch) == list(range(16))
    assert epochs[0] != [(0, video) for _, video in epochs[1]]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_any_number_of_processes_takes_the_same_videos_in_each_step_from_any_step_on(world: int) -> None:
    config = experiment(**{"optim.batch_size": 12, "optim.micro_batch": 2})
    whole = list(TrainOrder(30, experiment(**{"optim.batch_size": 12})))
    assert len(whole) == 6
    for start in (0, 3):
        orders = [TrainOrder(30, config, rank, world, start) for rank in range(world)]
        ranks = [list(order) for order in orders]
        assert [len(order) for order in orders] == [len(taken) for taken in ranks]
        in_turn = [micro_batch for dealt in zip(*ranks, strict=True) for micro_batch in dealt]
        videos = [video for micro_batch in in_turn for video in micro_batch]
        assert videos == [video for step in whole[start:] for video in step]


@pytest.mark.parametrize("start", [1, 4, 5, 11])
def test_an_order_can_be_taken_up_anywhere(start: int) -> None:
    config = experiment()
    assert list(TrainOrder(16, config, start=start)) == list(TrainOrder(16, config))[start:]


def test_a_set_smaller_than_a_batch_is_gone_through_more_than_once() -> None:
    order = TrainOrder(3, experiment(**{"optim.batch_size": 8}))
    assert order.steps_per_epoch == 1
    for batch in order:
        assert len(batch) == 8
        assert {video for _, video in batch} == {0, 1, 2}


def test_steps_and_micro_batches_decide_how_many_there_are() -> None:
    assert len(TrainOrder(16, experiment(**{"optim.steps": 7, "optim.micro_batch": 2}))) == 14
    assert TrainOrder(16, experiment(**{"optim.micro_batch": 2})).steps_per_epoch == 4


def test_batches_are_the_clips_of_their_videos_whoever_makes_them_and_from_wherever_on(index: VideoIndex) -> None:
    """In units of 2 videos, by this process or by two workers that have one unit each of the next batch."""
    here = experiment(**{"data.repeats": 2, "optim.batch_size": 8})
    clips, order = TrainClips(index, here), list(TrainOrder(16, here))
    expected = [[clips[video] for video in batch] for batch in order]
    there = here.override({"data.workers": 2})
    for config, start in ((here, 0), (there, 0), (there, 5)):
        batches = list(train_loader(index, config, TrainOrder(16, config, start=start)))
        assert len(batches) == len(order) - start
        for batch, videos in zip(batches, expected[start:], strict=True):
            assert torch.equal(batch.frames, torch.stack([clip for video in videos for clip in video.frames]))
            assert batch.frames.shape == (8, 4, 32, 32, 3)
            assert not batch.frames.is_shared()
            assert batch.paths == [video.path for video in videos for _ in range(2)]
            assert batch.labels.tolist() == [video.label for video in videos for _ in range(2)]


@pytest.mark.parametrize(
    ("batch_size", "repeats", "workers", "unit", "ahead"),
    [
        (64, 2, 1, 4, 16),  # 8 clips; two batches of 8 units
        (64, 2, 10, 2, 4),  # two batches of 16 units are 3.2 for each worker
        (8, 1, 2, 4, 2),  # each worker has a unit of the next batch
        (8, 8, 4, 1, 1),  # a video is the least
        (9, 1, 0, 3, 6),
        (7, 1, 2, 1, 7),
        (48, 16, 2, 1, 3),  # also where that is more than 8 clips
        (1024, 4, 8, 2, 32),
    ],
)
def test_a_unit_is_a_few_videos_and_workers_are_two_batches_ahead(
    batch_size: int, repeats: int, workers: int, unit: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "worker_count", lambda wanted: wanted)
    config = experiment(**{"optim.batch_size": batch_size, "data.repeats": repeats, "data.workers": workers})
    found = portions.training_portions(config)
    assert (found.unit, found.ahead) == (unit, ahead)
    assert found.units * found.unit * repeats == batch_size
    assert found.handed_over == (((ahead * workers + found.units) * unit * repeats) if workers else 0)


def test_repeated_clips_of_a_video_differ(index: VideoIndex) -> None:
    sample = TrainClips(index, experiment(**{"data.repeats": 4}))[0, 0]
    assert len(sample.frames) == 4
    assert any(not torch.equal(sample.frames[0], other) for other in sample.frames[1:])


def with_broken(index: VideoIndex, tmp_path: Path, broken: int) -> VideoIndex:
    videos = list(index.videos)
    for number in range(broken):
        path = tmp_path / f"broken-{number}.mp4"
        path.write_text("not a video")
        videos[number] = VideoFile(path, videos[number].label)
    return VideoIndex(index.source, VideoFiles.of(videos), index.classes)


def test_an_unreadable_video_is_replaced_by_the_same_other_each_time(index: VideoIndex, tmp_path: Path) -> None:
    broken = with_broken(index, tmp_path, 3)
    samples = [TrainClips(broken, experiment())[0, 1] for _ in range(2)]
    assert samples[0].path == samples[1].path
    assert all(torch.equal(*pair) for pair in zip(samples[0].frames, samples[1].frames, strict=True))
    path, reason = next(iter(samples[0].bad.items()))
    assert path.endswith("broken-1.mp4")
    assert "Invalid data" in reason
    assert samples[0].label == {str(v.path): v.label for v in broken.videos}[samples[0].path]


def test_a_set_of_nothing_but_unreadable_videos_ends_with_the_reason(index: VideoIndex, tmp_path: Path) -> None:
    broken = with_broken(index, tmp_path, 16)
    with pytest.raises(EverestError, match=r"videos in a row are unreadable, the last .*broken-\d+\.mp4: Invalid data"):
        TrainClips(broken, experiment())[0, 0]


def test_processes_tell_each_other_of_an_unreadable_video_once() -> None:
    told: list[dict[str, str]] = []
    met = [[{"a": "cut"}, {"b": "empty"}, {}], [{"a": "cut"}, {}, {"c": "text"}]]
    barrier, sent = threading.Barrier(2), [{}, {}]

    def go(rank: int) -> dict[str, str]:
        def gather(new: dict[str, str]) -> list[dict[str, str]]:
            told.append(new)
            sent[rank] = new
            barrier.wait()
            found = list(sent)
            barrier.wait()
            return found

        bad = BadVideos(total=10, max_bad=0.5)
        bad.restore({"z": "known"})
        for each in met[rank]:
            bad.add(each)
            bad.share(gather)
        return bad.reasons

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(go, range(2))
    assert one == two == {"z": "known", "a": "cut", "b": "empty", "c": "text"}
    assert sorted(path for new in told for path in new) == ["a", "a", "b", "c"]


def test_bad_videos_are_said_once_and_too_many_name_the_first_ten(caplog: pytest.LogCaptureFixture) -> None:
    bad = BadVideos(total=240, max_bad=0.05)
    for number in range(12):
        bad.add({f"v{number}.mp4": "broken"})
        bad.add({f"v{number}.mp4": "broken"})
    bad.check()
    assert len(bad.reasons) == 12
    assert len(caplog.records) == 12
    bad.add({"v12.mp4": "broken"})
    with pytest.raises(TooManyBad, match=r"13 of 240 videos are unreadable, more than data.max_bad 0.05") as error:
        bad.check()
    assert str(error.value).count("(broken)") == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_every_video_once_over_all_processes(index: VideoIndex, tmp_path: Path, workers: int) -> None:
    """6, 5 and 5 of 16, in batches of 4; views in the order of the list, none of a broken video."""
    broken = with_broken(index, tmp_path, 1)
    config = experiment(**{"data.workers": workers, "evaluate.batch_size": 8})
    views = EvaluationViews(broken, config, 2, 1)
    for rank in range(3):
        loader = evaluation_loader(broken, config, 2, 1, rank, world=3)
        batches, ours = list(loader), [views[video] for video in range(rank, 16, 3)]
        assert [len(set(batch.paths)) for batch in batches] == ([3, 2] if rank == 0 else [4, 1])
        assert len(loader) == 2
        assert torch.equal(
            torch.cat([batch.frames for batch in batches]),
            torch.stack([clip for video in ours for clip in video.frames]),
        )
        assert [path for batch in batches for path in batch.paths] == [v.path for v in ours for _ in v.frames]
        assert [label for batch in batches for label in batch.labels] == [v.label for v in ours for _ in v.frames]
        assert [name for batch in batches for name in batch.bad] == ([broken.videos[0].name] if rank == 0 else [])


def test_a_batch_of_nothing_but_broken_videos_is_empty(index: VideoIndex, tmp_path: Path) -> None:
    broken = with_broken(index, tmp_path, 8)
    first, _ = evaluation_loader(broken, experiment(**{"evaluate.batch_size": 8}), 1, 1)
    assert first.frames.shape == (0, 4, 32, 32, 3)
    assert (len(first.labels), first.paths, len(first.bad)) == (0, [], 8)


def test_decoded_frames_give_the_same_views_as_their_file(index: VideoIndex) -> None:
    views = EvaluationViews(index, experiment(), segments=2, crops=1)
    video = index.videos[0]
    frames = decode(video.path, 32, np.arange)
    assert torch.equal(views.views(video), views.views_of(frames))


def test_views_of_a_test_by_parts_see_other_frames_each(index: VideoIndex) -> None:
    views = EvaluationViews(index, experiment(**{"data.sampling": "segment"}), segments=2, crops=1)
    first, second = np.split(views._frames(160), 2)
    assert first.tolist() == [10, 50, 90, 130]  # a quarter into each of four parts of 40 frames
    assert second.tolist() == [30, 70, 110, 150]
