"""A video of a set, wherever its frames are kept, and what clips are cut from it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from everest.config import DataConfig


class Crop(NamedTuple):
    """A part of a picture, as shares (0 … 1) of its width and height, from the upper left."""

    left: float
    top: float
    width: float
    height: float


class Cut(NamedTuple):
    """Clips of the same frames: one for each crop, scaled to a square."""

    numbers: np.ndarray  # of frames, rising; repeats are frames that are shown again
    crops: tuple[Crop, ...]
    size: int  # height and width of the clips, pixels


#: From (number of frames, height, width), as the video is shown, to what is wanted; the same each time it is asked.
Plan = Callable[[int, int, int], Cut]


class Video(Protocol):
    """One of a set. Both ways to its pixels raise DecodeError where they cannot be read."""

    @property
    def name(self) -> str:
        """For people, and the same wherever the set lies."""

    @property
    def label(self) -> int | None: ...

    def cut(self, plan: Plan, data: DataConfig) -> Tensor:
        """Clips, uint8 (crops, frames, size, size, 3), decoded once and scaled once."""

    def frames(self, choose: Callable[[int], np.ndarray], short_side: int, data: DataConfig) -> Tensor:
        """Whole frames, uint8 (frames, H, W, 3), those that ``choose(number of frames)`` asks for."""
