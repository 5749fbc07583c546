"""Frames of a video file by their number, exact, in a process that may hang or crash without harm."""

import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from everest.data.reader.errors import DecodeError
from everest.data.reader.frames import Facts
from everest.data.reader.process import TIME_LIMIT_S, ask, stream
from everest.data.transforms import cut_out
from everest.data.video import Cut, Plan
from everest.errors import EverestError

__all__ = ["DecodeError", "NoSuchFrame", "cut", "decode", "jpegs", "read_frames"]


class NoSuchFrame(EverestError, IndexError):
    """A number that no frame of the video has."""


def decode(
    path: Path,
    short_side: int | None,
    choose: Callable[[int], np.ndarray],
    reader: Literal["av", "decord"] = "av",
    time_limit: float = TIME_LIMIT_S,
) -> Tensor:
    """The frames ``choose(frame count)`` asks for, scaled so that the shorter side is ``short_side`` pixels.

    Returns uint8 (frames, H, W, 3). ``choose`` is asked again where the count turns out to be another.
    Raises DecodeError, also after ``time_limit`` seconds.
    """
    chosen = np.empty(0, int)

    def distinct(total: int) -> list[int]:
        nonlocal chosen
        chosen = choose(total)
        return np.unique(chosen).tolist()

    pixels = ask(path, time_limit, distinct, task=reader, short_side=short_side)["pixels"]
    return torch.from_numpy(pixels)[torch.from_numpy(np.unique(chosen, return_inverse=True)[1])]


def cut(path: Path, plan: Plan, reader: Literal["av", "decord"] = "av", time_limit: float = TIME_LIMIT_S) -> Tensor:
    """The clips that a plan asks for: uint8 (crops, frames, size, size, 3). Raises DecodeError, as ``decode``."""
    _, height, width, _ = decode(path, None, lambda total: np.zeros(1, int), reader, time_limit).shape
    found: list[Cut] = []

    def choose(total: int) -> np.ndarray:
        found.append(plan(total, height, width))
        return found[-1].numbers

    frames = decode(path, None, choose, reader, time_limit)
    return torch.stack([cut_out(frames, crop, found[-1].size) for crop in found[-1].crops])


def jpegs(
    path: Path, short_side: int, quality: int, every: int = 1, time_limit: float = TIME_LIMIT_S
) -> Iterator[Facts | bytes]:
    """Goes through a video once: its facts, then every n-th frame as JPEG, the shorter side ``short_side`` pixels.

    Facts that come again say that it begins anew, and that what came before does not count. Raises DecodeError, also
    after ``time_limit`` seconds without a frame.
    """
    asked = stream(path, time_limit, task="jpegs", short_side=short_side, every=every, quality=quality)
    for answer in asked:
        yield answer if isinstance(answer, bytes) else Facts(**answer)


def read_frames(path: str | Path, indices: Sequence[int] | np.ndarray, short_side: int | None = None) -> np.ndarray:
    """The frames with these numbers, as people see them: uint8 (n, H, W, 3), a numpy array.

    Frames count from 0 in the order they are shown; any order and repeats are as asked for. ``short_side`` scales
    the shorter side to so many pixels. Raises EverestError where the video cannot be read, and NoSuchFrame, which
    is an IndexError too, for a number below 0 or beyond the last frame.
    """
    try:
        numbers = np.array([operator.index(number) for number in indices], int)
    except TypeError:
        raise EverestError(f"indices {indices!r}: give a sequence of whole numbers") from None

    def checked(total: int) -> np.ndarray:
        if wrong := [number for number in numbers.tolist() if not 0 <= number < total]:
            raise NoSuchFrame(f"{path} has frames 0 to {total - 1}, and no frame {wrong[0]}")
        return numbers if len(numbers) else np.zeros(1, int)  # one, to know the size

    try:
        return decode(Path(path), short_side, checked).numpy()[: len(numbers)]
    except DecodeError as error:
        raise EverestError(f"{path}: {error}") from None
