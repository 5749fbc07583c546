"""Random clips, not decoded, and the frames they are chosen from."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from everest.data.packed.format import tar_of
from everest.data.sampling import dense

Read = Callable[[int, np.ndarray], list[bytes]]  # from a video and some of its frames to their JPEGs


def videos(packed: Path) -> Iterator[list[bytes]]:
    """The JPEGs of each video, by Python's own tar reader."""
    found: dict[str, list[bytes]] = {}
    with tarfile.open(packed / tar_of(0)) as tar:
        for member in tar:
            if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                found.setdefault(member.name.split("/")[0], []).append(file.read())
    yield from found.values()


def random_clips(read: Read, frames: list[list[bytes]], count: int, dice: np.random.Generator) -> list[list[bytes]]:
    chosen = [int(video) for video in dice.integers(len(frames), size=count)]
    return [read(video, clip(len(frames[video]), dice)) for video in chosen]


def clip(total: int, dice: np.random.Generator) -> np.ndarray:
    return np.unique(dense(total, 16, 4, float(dice.random())))


def as_written(frames: list[list[bytes]]) -> Read:
    """What every format has to hand out."""
    return lambda video, wanted: [frames[video][number] for number in wanted]
