"""Batches of clips, in an order and with random choices that depend on (seed, epoch, sample) alone."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

from everest.config import Experiment
from everest.data.batches import LOOK_EVERY_S, Batches, cannot_hand_over
from everest.data.clips import Clips, EvaluationViews, TrainClips
from everest.data.index import VideoIndex
from everest.data.workers import PREFETCH, ignore_interrupts, worker_context, worker_count
from everest.seeding import derived_seed


class Batch(NamedTuple):
    """Clips of some videos. In evaluation the views of one video follow each other."""

    frames: Tensor  # uint8 (B, T, H, W, 3)
    labels: Tensor  # (B,); -1 where there is none
    paths: list[str]  # of the B clips
    bad: dict[str, str]  # unreadable videos met on the way: path -> reason


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
