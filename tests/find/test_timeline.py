"""The counts of a video that is read once are those of all its tokens sorted at once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from everest.config import FramesConfig, ModelConfig
from everest.data.decode import read_frames
from everest.data.encode import write_video
from everest.data.index import read_index
from everest.data.synthetic import render
from everest.data.uncurated import EVENTS, synthesize_uncurated
from everest.find.intervals import most_informative
from everest.find.timeline import Look, MostImportant, Timeline, read_timeline
from everest.model.embed import TubeletEmbed
from everest.model.frames import select_frames
from everest.model.masks import ranking
from everest.model.select import keep_important


def quiet(done: float, of: float) -> None:
    pass


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """75 frames of 64 x 48 pixels: noise, and something that moves in a part of them."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 12, (75, 48, 64, 3)).astype(np.uint8)
    frames[30:45, :, :48] += render("right", 48, 15, rng) // 2
    write_video(tmp_path / "video.mp4", frames, 25)
    return tmp_path / "video.mp4"


def test_counts_of_pixels_are_those_of_numpy(video: Path) -> None:
    look = Look.untrained(ranking("pixel"), every=2)._replace(short_side=48)
    timeline = read_timeline(video, look, 0.2, shown_s=1.0, progress=quiet)
    frames = read_frames(video, range(0, 75, 2)).astype(int)
    steps = frames.reshape(19, 2, 6, 8, 8, 8, 3)
    change = np.abs(steps[1:] - steps[:-1]).sum((1, 3, 5, 6)).reshape(18, 48)
    change = np.concatenate([change[:1], change])
    kept = int(0.2 * 48 * 6)  # of 6 steps of a second of 12.5 frames
    best = np.argsort(-change.ravel(), kind="stable")[:kept]
    assert timeline.kept == kept
    assert timeline.counts.tolist() == np.bincount(best // 48, minlength=19).tolist()
    assert timeline.times.tolist() == pytest.approx([0.16 * step for step in range(19)])
    assert timeline.seconds == pytest.approx(75 / 25, abs=0.1)
    assert (timeline.rate, timeline.short_side) == (25, 48)


def test_a_video_of_one_clip_has_the_steps_that_frame_selection_takes(video: Path) -> None:
    config = FramesConfig(select=True, alpha=1.5)
    embed = TubeletEmbed(ModelConfig(image_size=48, num_frames=48, patch_size=8, embed_dim=48, num_heads=3))
    clip = torch.from_numpy(read_frames(video, range(74))[None, :72, :, 8:56])
    short = video.with_name("clip.mp4")
    write_video(short, clip[0].numpy(), 25)
    clip = torch.from_numpy(read_frames(short, range(72))[None])
    look = Look(embed, ranking("rero"), "l2", 48, 1)
    timeline = read_timeline(short, look, config.keep_ratio, shown_s=60, progress=quiet)
    assert timeline.kept == int(0.3 * 36 * 36)
    steps = np.sort(np.argsort(-timeline.counts, kind="stable")[:24])
    chosen = select_frames(embed, clip, 48, config, generator=None)
    assert torch.equal(chosen[0], clip[0].reshape(36, 2, 48, 48, 3)[torch.from_numpy(steps)].flatten(0, 1))


@pytest.mark.parametrize("values", [3, 1000])
def test_the_most_important_of_a_stream_are_those_of_a_sort(values: int) -> None:
    """With few values most tokens tie."""
    generator = torch.Generator().manual_seed(values)
    importance = torch.randint(1, values, (40, 7), generator=generator).float()
    most = MostImportant(50)
    for part in importance.split([1, 9, 2, 16, 12]):
        most.add(part)
    for among in (50, 20):
        kept = keep_important(importance[None], among)[0]
        counts, change = most.by_step(among)
        assert counts.tolist() == torch.bincount(kept // 7, minlength=40).tolist()
        assert change.sum() == importance.flatten()[kept].sum()


def test_what_does_not_change_is_never_kept() -> None:
    most = MostImportant(10)
    most.add(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert most.by_step(10)[0].tolist() == [0, 1]


def test_intervals_are_the_best_of_all_that_are_left() -> None:
    rng = np.random.default_rng(1)
    times, change = np.arange(60) * 0.5, rng.exponential(size=60)
    found = most_informative(Timeline(change, change, times, 1, 60, 30.0, 25, 48), length=4, top=4)
    taken = np.zeros(60, bool)
    for interval in found:
        inside = (times >= interval.start) & (times < interval.end)
        assert inside.sum() == 8
        assert not (inside & taken).any()
        left = [change[n : n + 8].sum() for n in range(53) if not taken[n : n + 8].any()]
        assert interval.score * change.sum() == pytest.approx(max(left))
        taken |= inside
    assert len(found) == 4


def test_a_moment_is_in_the_middle_of_its_interval_and_nothing_else_is_found() -> None:
    counts = np.zeros(60)
    counts[30:32] = 5
    timeline = Timeline(counts, counts, np.arange(60) * 0.5, 9, 10, 30.0, 25, 48)
    [found] = most_informative(timeline, length=4, top=3)
    assert found == (13.5, 17.5, 1.0)
    assert most_informative(timeline._replace(change=np.zeros(60)), length=4, top=3) == []


def test_the_best_interval_shows_the_event_of_an_uncurated_video(tmp_path: Path) -> None:
    synthesize_uncurated(tmp_path, train=4, val=4, size=64, seconds=30, seed=0, progress=lambda done, total: None)
    look = Look.untrained(ranking("pixel"), every=4)
    for video in read_index(tmp_path / EVENTS).videos:
        assert video.end is not None
        timeline = read_timeline(video.path, look, 0.3, shown_s=4, progress=quiet)
        best = most_informative(timeline, length=2, top=2)[0]
        shown = min(best.end, video.end) - max(best.start, video.start)
        assert shown > 0.7 * min(2, video.end - video.start)
