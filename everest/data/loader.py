"""Batches of clips, in an order and with random choices that depend on (seed, epoch, sample) alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from everest.config import Experiment
from everest.data import sampling
from everest.data.batches import LOOK_EVERY_S, Batches, cannot_hand_over
from everest.data.decode import DecodeError, decode
from everest.data.index import VideoIndex
from everest.data.transforms import evenly_placed_crop, scale_short_side, train_transform
from everest.data.workers import PREFETCH, ignore_interrupts, worker_context, worker_count
from everest.errors import EverestError
from everest.seeding import derived_seed, seed_everything

_REPLACEMENTS = 20


class Batch(NamedTuple):
    """Clips of some videos. In evaluation the views of one video follow each other."""

    frames: Tensor  # uint8 (B, T, H, W, 3)
    labels: Tensor  # (B,); -1 where there is none
    paths: list[str]  # of the B clips
    bad: dict[str, str]  # unreadable videos met on the way: path -> reason


class Clips(NamedTuple):
    """What a dataset gives for one index, before batching."""

    frames: Tensor  # uint8 (n, T, H, W, 3), n = 0 for an unreadable video in evaluation
    label: int
    path: str
    bad: dict[str, str]


def collate(samples: list[Clips]) -> Batch:
    """In a worker the frames go to shared memory here, where it is noticed that they cannot."""
    frames = torch.cat([sample.frames for sample in samples])
    if get_worker_info():
        try:
            frames.share_memory_()
        except (RuntimeError, OSError) as error:
            raise cannot_hand_over(error) from None
    return Batch(
        frames=frames,
        labels=torch.tensor([sample.label for sample in samples for _ in sample.frames]),
        paths=[sample.path for sample in samples for _ in sample.frames],
        bad={path: reason for sample in samples for path, reason in sample.bad.items()},
    )


class TrainClips(Dataset[Clips]):
    """``data.repeats`` random clips of a video; an unreadable video is replaced by another, the same one each time."""

    def __init__(self, index: VideoIndex, config: Experiment) -> None:
        self.index, self.config = index, config
        self._bad: dict[int, str] = {}

    def __getitem__(self, key: tuple[int, int]) -> Clips:
        epoch, position = key
        bad = {}
        for attempt in range(_REPLACEMENTS):
            seed_everything(self.config.seed, "clip", epoch, position, attempt)
            at = position if attempt == 0 else int(np.random.randint(len(self.index.videos)))
            path, label = self.index.videos[at]
            try:
                if at in self._bad:  # no second try in this process
                    raise DecodeError(self._bad[at])
                frames = self._clips(path)
            except DecodeError as error:
                bad[str(path)] = self._bad[at] = str(error)
            else:
                return Clips(frames, -1 if label is None else label, str(path), bad)
        raise EverestError(f"{_REPLACEMENTS} videos in a row are unreadable, the last {path}: {bad[str(path)]}")

    def _clips(self, path: Path) -> Tensor:
        data, model = self.config.data, self.config.model
        count = self.config.frames.candidates(model.num_frames, model.tubelet_size)

        def choose(total: int) -> np.ndarray:
            return np.concatenate([self._choose(total, count) for _ in range(data.repeats)])

        frames = decode(path, self.config.decode_short_side, choose, data.reader, data.time_limit)
        return torch.stack([train_transform(clip, self.config) for clip in frames.split(count)])

    def _choose(self, total: int, count: int) -> np.ndarray:
        if self.config.data.sampling == "segment":
            return sampling.segments(total, count, np.random.rand(count))
        spread = self.config.stage == "finetune"
        return sampling.dense(total, count, self.config.data.rate, float(np.random.rand()), spread)


class EvaluationViews(Dataset[Clips]):
    """``segments`` x ``crops`` fixed views of a video; of an unreadable one none, its name among the bad."""

    def __init__(self, index: VideoIndex, config: Experiment, segments: int, crops: int) -> None:
        self.index, self.config, self.segments, self.crops = index, config, segments, crops

    def __getitem__(self, position: int) -> Clips:
        path, label = self.index.videos[position]
        target = -1 if label is None else label
        try:
            return Clips(self.views(path), target, str(path), {})
        except DecodeError as error:
            return Clips(torch.empty(0, *self._shape, dtype=torch.uint8), target, str(path), {str(path): str(error)})

    def views(self, path: Path) -> Tensor:
        """uint8 (segments * crops, T, H, W, 3) of one video. Raises DecodeError."""
        data = self.config.data
        return self._crops(decode(path, self.config.model.image_size, self._frames, data.reader, data.time_limit))

    def views_of(self, frames: Tensor) -> Tensor:
        """The same of a video already decoded, uint8 (frames, H, W, 3)."""
        chosen = frames[torch.from_numpy(self._frames(len(frames)))]
        return self._crops(scale_short_side(chosen, self.config.model.image_size))

    def _frames(self, total: int) -> np.ndarray:
        return np.concatenate([self._choose(total, number) for number in range(self.segments)])

    def _crops(self, frames: Tensor) -> Tensor:
        count, size = self._shape[0], self.config.model.image_size
        return torch.stack(
            [evenly_placed_crop(clip, size, where) for clip in frames.split(count) for where in _even(self.crops)]
        )

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        model = self.config.model
        count = self.config.frames.candidates(model.num_frames, model.tubelet_size)
        return count, model.image_size, model.image_size, 3

    def _choose(self, total: int, number: int) -> np.ndarray:
        """Frames of view ``number``: sampled by parts, each view takes its own place, (number + 0.5) / segments."""
        if self.config.data.sampling == "segment":
            return sampling.segments(total, self._shape[0], (number + 0.5) / self.segments)
        return sampling.dense_view(total, self._shape[0], self.config.data.rate, number, self.segments)


def _even(count: int) -> list[float]:
    """``count`` places from 0 to 1, both included; the middle where there is one."""
    return [0.5] if count == 1 else np.linspace(0, 1, count).tolist()


class TrainOrder(Sampler[list[tuple[int, int]]]):
    """Which (epoch, video) each batch takes, from any batch on, for one of ``world`` processes.

    Every epoch is a fresh permutation of all videos, cut into whole batches; what is left over waits for
    another epoch. A set smaller than a batch is gone through more than once.
    """

    def __init__(self, videos: int, config: Experiment, rank: int = 0, world: int = 1, start: int = 0) -> None:
        self.videos, self.seed, self.rank, self.world, self.start = videos, config.seed, rank, world, start
        self.per_batch = config.optim.batch_size // config.data.repeats
        group = config.optim.accumulate * world * self.per_batch
        self.steps_per_epoch = max(1, videos // group)
        self.batches_per_epoch = self.steps_per_epoch * config.optim.accumulate
        self.steps = config.optim.steps or config.optim.epochs * self.steps_per_epoch
        self.batches = self.steps * config.optim.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in range(self.start, self.batches):
            epoch, number = divmod(batch, self.batches_per_epoch)
            if number == 0 or batch == self.start:
                order = self._epoch(epoch)
            begin = (number * self.world + self.rank) * self.per_batch
            yield [(epoch, int(video)) for video in order[begin : begin + self.per_batch]]

    def __len__(self) -> int:
        return self.batches - self.start

    def _epoch(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng(derived_seed(self.seed, "order", epoch)).permutation(self.videos)
        return np.resize(order, max(self.videos, self.batches_per_epoch * self.world * self.per_batch))


def train_loader(index: VideoIndex, config: Experiment, order: TrainOrder) -> Batches:
    clips = TrainClips(index, config)
    loader = DataLoader(clips, batch_sampler=order, collate_fn=collate, **_workers(config.data.workers))
    return Batches(loader, order.per_batch * config.data.time_limit)


def evaluation_loader(
    index: VideoIndex, config: Experiment, segments: int, crops: int, rank: int = 0, world: int = 1
) -> Batches:
    """Whole videos of this process, so many at a time that about ``evaluate.batch_size`` views make a batch."""
    at_once = max(1, config.evaluate.batch_size // (segments * crops))
    loader = DataLoader(
        EvaluationViews(index, config, segments, crops),
        sampler=list(range(rank, len(index.videos), world)),
        batch_size=at_once,
        collate_fn=collate,
        **_workers(config.data.workers),
    )
    return Batches(loader, at_once * config.data.time_limit)


def _workers(wanted: int) -> dict[str, Any]:
    count = worker_count(wanted)
    if not count:
        return {"num_workers": 0}
    return {
        "num_workers": count,
        "multiprocessing_context": worker_context(),
        "worker_init_fn": ignore_interrupts,
        "timeout": LOOK_EVERY_S,
        "prefetch_factor": PREFETCH,
        "pin_memory": torch.cuda.is_available(),
    }
