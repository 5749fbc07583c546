"""Units of work: the clips of a few videos, which a decoding worker makes at a time. Batches are joined from them."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from everest.data.clips import EvaluationViews, TrainClips
from everest.data.shared_memory import cannot_hand_over


class Unit(NamedTuple):
    """Clips of some videos. In evaluation the views of one video follow each other."""

    frames: Tensor  # uint8 (B, T, H, W, 3)
    labels: list[int]  # of the B clips; -1 where there is none
    paths: list[str]
    bad: dict[str, str]  # unreadable videos met on the way: path -> reason
    seconds: float  # that making it took


class Batch(NamedTuple):
    """As a unit."""

    frames: Tensor
    labels: Tensor
    paths: list[str]
    bad: dict[str, str]
    seconds: float


class InUnits:
    """The batches of an order, cut into units."""

    def __init__(self, batches: Iterable[Sequence[Any]], videos: int) -> None:
        self.batches, self.videos = batches, videos

    def __iter__(self) -> Iterator[Sequence[Any]]:
        for batch in self.batches:
            for begin in range(0, len(batch), self.videos):
                yield batch[begin : begin + self.videos]


class Units(Dataset[Unit]):
    """From what an order gives of a unit's videos to their clips; in a worker these are in shared memory."""

    def __init__(self, clips: TrainClips | EvaluationViews) -> None:
        self.clips = clips

    def __getitem__(self, videos: Sequence[Any]) -> Unit:
        began = time.monotonic()
        samples = self.clips.__getitems__(videos)
        return Unit(
            frames=_together([clip for sample in samples for clip in sample.frames], self.clips.shape),
            labels=[sample.label for sample in samples for _ in sample.frames],
            paths=[sample.path for sample in samples for _ in sample.frames],
            bad={path: reason for sample in samples for path, reason in sample.bad.items()},
            seconds=time.monotonic() - began,
        )


def _together(clips: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Copied once; where that cannot be, it is noticed here. ``shape`` of a clip, as there may be none."""
    if not clips:
        return torch.empty(0, *shape, dtype=torch.uint8)
    try:
        frames: Tensor = default_collate(clips)
    except (RuntimeError, OSError) as error:
        if get_worker_info():
            raise cannot_hand_over(error) from None
        raise
    return frames


def join(units: Sequence[Unit], device: torch.device) -> Batch:
    """The batch of these units, on the device; from pinned memory it arrives there without being waited for."""
    frames = units[0].frames
    if len(units) > 1 or frames.device.type != device.type:
        sizes = [len(unit.frames) for unit in units]
        frames = torch.empty(sum(sizes), *frames.shape[1:], dtype=torch.uint8, device=device)
        for place, unit in zip(frames.split(sizes), units, strict=True):
            place.copy_(unit.frames, non_blocking=True)
    return Batch(
        frames=frames,
        labels=torch.tensor([label for unit in units for label in unit.labels], pin_memory=device.type == "cuda").to(
            device, non_blocking=True
        ),
        paths=[path for unit in units for path in unit.paths],
        bad={path: reason for unit in units for path, reason in unit.bad.items()},
        seconds=sum(unit.seconds for unit in units),
    )
