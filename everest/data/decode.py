"""Frames of a video file by their number, exact, in a process that may hang or crash without harm."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from everest.data.reader.errors import DecodeError
from everest.data.reader.frames import Begin, Facts, Picture
from everest.data.reader.process import TIME_LIMIT_S, ask, stream
from everest.data.reader.wire import PICTURE_HEAD
from everest.data.video import Plan
from everest.errors import EverestError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DecodeError", "NoSuchFrame", "cut", "decode", "jpegs", "pictures", "read_frames"]


class NoSuchFrame(EverestError, IndexError):
    """A number that no frame of the video has."""


def decode(
    path: Path,
    short_side: int | None,
    choose: Callable[[int], np.ndarray],
    reader: Literal["av", "decord"] = "av",
    time_limit: float = TIME_LIMIT_S,
    start: float = 0.0,
    end: float | None = None,
) -> Tensor:
    """The frames ``choose(frame count)`` asks for, scaled so that the shorter side is ``short_side`` pixels.

    Returns uint8 (frames, H, W, 3). ``choose`` is asked again where the count turns out to be another. Only frames
    that are shown from ``start`` on and before ``end`` count, in seconds from the first one; None is the video's end.
    Raises DecodeError, also where there are none, and after ``time_limit`` seconds.
    """

    def ask_for(total: int, height: int, width: int) -> tuple[np.ndarray, dict[str, Any]]:
        return choose(total), {"short_side": short_side}

    [frames] = _pictures(path, ask_for, time_limit, reader=reader, start=start, end=end)
    return frames


def cut(
    path: Path,
    plan: Plan,
    reader: Literal["av", "decord"] = "av",
    time_limit: float = TIME_LIMIT_S,
    start: float = 0.0,
    end: float | None = None,
) -> Tensor:
    """The clips that a plan asks for: uint8 (crops, frames, size, size, 3), of a video or a window as in ``decode``.

    ``plan`` is asked again where the count or size turns out to be another. Raises DecodeError.
    """

    def ask_for(total: int, height: int, width: int) -> tuple[np.ndarray, dict[str, Any]]:
        wanted = plan(total, height, width)
        return wanted.numbers, {"crops": wanted.crops, "size": wanted.size}

    return _pictures(path, ask_for, time_limit, reader=reader, start=start, end=end)


def _pictures(
    path: Path, ask_for: Callable[[int, int, int], tuple[np.ndarray, dict[str, Any]]], time_limit: float, **where: Any
) -> Tensor:
    """Of the frames and kinds that ``ask_for`` says: uint8 (pictures of each frame, frames, H, W, 3)."""
    import torch  # not where videos are packed

    chosen = np.empty(0, int)

    def distinct(total: int, height: int, width: int) -> dict[str, Any]:
        nonlocal chosen
        chosen, kind = ask_for(total, height, width)
        return {"numbers": np.unique(chosen).tolist(), **kind}

    pixels = torch.from_numpy(ask(path, time_limit, distinct, task="frames", **where)["pixels"])
    numbers, places = np.unique(chosen, return_inverse=True)
    if pixels.shape[1] != len(numbers):
        raise IndexError(f"{path} has {pixels.shape[1]} of the {len(numbers)} frames asked for")
    return pixels if np.array_equal(numbers, chosen) else pixels.index_select(1, torch.from_numpy(places))


def jpegs(
    path: Path,
    short_side: int,
    quality: int,
    every: int = 1,
    time_limit: float = TIME_LIMIT_S,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[Facts | bytes]:
    """Goes through a video once, or a window of it as in ``decode``: its facts, then every n-th frame as JPEG, the
    shorter side ``short_side`` pixels.

    Facts that come again say that it begins anew, and that what came before does not count. Raises DecodeError, also
    after ``time_limit`` seconds without a frame.
    """
    how = {"short_side": short_side, "every": every, "quality": quality, "start": start, "end": end}
    for answer in stream(path, time_limit, task="jpegs", **how):
        yield answer if isinstance(answer, bytes) else Facts(**answer)


def pictures(
    path: Path,
    short_side: int,
    every: int = 1,
    time_limit: float = TIME_LIMIT_S,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[Begin | Picture]:
    """As ``jpegs``, but the pixels as they are and when each is shown: hours of video in the memory of a frame.

    Another Begin says that what came before does not count. Raises DecodeError.
    """
    how = {"short_side": short_side, "every": every, "start": start, "end": end}
    for answer in stream(path, time_limit, task="pictures", **how):
        if isinstance(answer, dict):
            facts = Facts(*answer["facts"])
            yield Begin(facts, answer["seconds"])
        else:
            [seconds] = PICTURE_HEAD.unpack_from(answer)
            pixels = np.frombuffer(answer, np.uint8, offset=PICTURE_HEAD.size)
            yield Picture(seconds, pixels.reshape(facts.height, facts.width, 3))


def read_frames(
    path: str | Path,
    indices: Sequence[int] | np.ndarray,
    short_side: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> np.ndarray:
    """The frames with these numbers, as people see them: uint8 (n, H, W, 3), a numpy array.

    Frames count from 0 in the order they are shown; any order and repeats are as asked for. ``short_side`` scales
    the shorter side to so many pixels. ``start`` and ``end``, in seconds from the first frame, make a window: only
    frames that are shown from ``start`` on and before ``end`` count. Raises EverestError where the video cannot be
    read, and NoSuchFrame, which is an IndexError too, for a number below 0 or beyond the last frame.
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
        return decode(Path(path), short_side, checked, start=start, end=end).numpy()[: len(numbers)]
    except DecodeError as error:
        raise EverestError(f"{path}: {error}") from None
