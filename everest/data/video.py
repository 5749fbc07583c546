"""A video of a set, wherever its frames are kept, and what clips are cut from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from everest.config import DataConfig
from everest.data.crop import Crop

if TYPE_CHECKING:
    from torch import Tensor


class Cut(NamedTuple):
    """Clips of the same frames: one for each crop, scaled to a square."""

    numbers: np.ndarray  # of frames, rising; repeats are frames that are shown again
    crops: tuple[Crop, ...]
    size: int  # height and width of the clips, pixels


#: From (number of frames, height, width), as the video is shown, to what is wanted; the same each time it is asked.
Plan = Callable[[int, int, int], Cut]


#: From the same to numbers of frames.
Choice = Callable[[int, int, int], np.ndarray]


class Video(Protocol):
    """One of a set. Both ways to its pixels raise DecodeError where they cannot be read."""

    @property
    def name(self) -> str:
        """For people, and the same wherever the set lies."""

    @property
    def label(self) -> int | None: ...

    def cut(self, plan: Plan, data: DataConfig) -> Sequence[Tensor]:
        """A clip for each crop, uint8 (frames, size, size, 3), decoded once and scaled once."""

    def frames(self, choose: Callable[[int], np.ndarray], short_side: int, data: DataConfig) -> Tensor:
        """Whole frames, uint8 (frames, H, W, 3), those that ``choose(number of frames)`` asks for."""


class Videos(Protocol):
    """Those of a set, in a fixed order. Processes that they are sent to share the memory they take."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int) -> Video: ...

    def __iter__(self) -> Iterator[Video]: ...

    @property
    def patience_s(self) -> float:
        """How long reading one may wait for the place where it is kept."""

    def bring(self, wanted: Mapping[int, Choice]) -> None:
        """Has what is wanted of some videos brought at the same time, where they are kept far away.

        What cannot be brought is said when it is read.
        """

    @property
    def labels(self) -> np.ndarray:
        """int32 (videos,); -1 for none."""

    def with_labels(self, labels: np.ndarray) -> Self:
        """The same videos with other labels."""

    def digest(self, start: Path, classes: Sequence[str]) -> str:
        """Tells one set from another, wherever it lies below ``start``, with its labels and the classes' names."""
