"""Batches of clips, in an order and with random choices that depend on (seed, epoch, sample) alone."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from everest.config import Experiment
from everest.data.batches import LOOK_EVERY_S, Batches
from everest.data.clips import EvaluationViews, TrainClips
from everest.data.index import VideoIndex
from everest.data.portions import Portions, testing_portions, training_portions
from everest.data.units import Batch, InUnits, Units
from everest.data.workers import begin_worker, worker_context
from everest.seeding import derived_seed

__all__ = ["Batch", "TrainOrder", "evaluation_loader", "train_loader"]

_CPU = torch.device("cpu")


class TrainOrder:
    """Which (epoch, video) each micro-batch of one of ``world`` processes takes, from step ``start`` on.

    Every epoch is a fresh permutation of all videos, cut into whole batches; what is left over waits for
    another epoch. A set smaller than a batch is gone through more than once. What a step takes does not depend
    on ``world``: its micro-batches are dealt to the processes in turn.
    """

    def __init__(self, videos: int, config: Experiment, rank: int = 0, world: int = 1, start: int = 0) -> None:
        self.videos, self.seed, self.start = videos, config.seed, start
        self.per_batch = config.optim.batch_size // config.data.repeats
        self.per_micro_batch = config.optim.micro_batch // config.data.repeats
        self.steps_per_epoch = max(1, videos // self.per_batch)
        self.steps = config.optim.steps or config.optim.epochs * self.steps_per_epoch
        self.micro_batches = config.optim.dealt(rank, world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.steps):
            epoch, number = divmod(step, self.steps_per_epoch)
            if number == 0 or step == self.start:
                order = np.random.default_rng(derived_seed(self.seed, "order", epoch)).permutation(self.videos)
            for micro_batch in self.micro_batches:
                begin = number * self.per_batch + micro_batch * self.per_micro_batch
                taken = order[np.arange(begin, begin + self.per_micro_batch) % self.videos]
                yield [(epoch, video) for video in taken.tolist()]

    def __len__(self) -> int:
        return (self.steps - self.start) * len(self.micro_batches)


def train_loader(index: VideoIndex, config: Experiment, order: TrainOrder, device: torch.device = _CPU) -> Batches:
    clips, portions = TrainClips(index, config), training_portions(config)
    return _batches(clips, order, len(order), portions, device)


def evaluation_loader(
    index: VideoIndex,
    config: Experiment,
    segments: int,
    crops: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device = _CPU,
) -> Batches:
    """Whole videos of this process, so many at a time that about ``evaluate.batch_size`` views make a batch."""
    views, portions = EvaluationViews(index, config, segments, crops), testing_portions(config, segments, crops)
    ours = range(rank, len(index.videos), world)
    return _batches(views, [ours], -(-len(ours) // portions.videos), portions, device)


def _batches(
    clips: TrainClips | EvaluationViews,
    order: Iterable[Sequence[Any]],
    count: int,
    portions: Portions,
    device: torch.device,
) -> Batches:
    takes_s = portions.unit * (clips.config.data.time_limit + clips.index.videos.patience_s)
    loader = DataLoader(
        Units(clips),
        sampler=InUnits(order, portions.unit),
        batch_size=None,
        **_workers(clips.config, portions, device),
    )
    return Batches(loader, count, portions.units, device, takes_s)


def _workers(config: Experiment, portions: Portions, device: torch.device) -> dict[str, Any]:
    if not portions.workers:
        return {"num_workers": 0}
    return {
        "num_workers": portions.workers,
        "multiprocessing_context": worker_context(config),
        "worker_init_fn": begin_worker,
        "timeout": LOOK_EVERY_S,
        "prefetch_factor": portions.ahead,
        "pin_memory": device.type == "cuda",
    }
