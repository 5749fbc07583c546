"""Whether frames reached from the key frame before them are those of a decoding from the start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from itertools import count, pairwise
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from everest.data.reader.errors import DecodeError
from everest.data.reader.frames import Disagreement, frames, indexed
from everest.data.reader.picture import Painter, Shape
from everest.data.reader.stream import all_frames
from everest.data.reader.window import Window

_SAMPLES = 8


def compare(path: Path, window: Window, deep: bool) -> str | None:
    """Decodes all of a video, and compares eight frames all over its window, or with ``deep`` each one of it, with
    the same reached from its key.

    Returns what is odd about a video that can be read all the same. Raises DecodeError where no frame can be
    decoded, or where a run would be given another frame than the one it asks for.
    """
    try:
        stored, reached = _reached(path, window, deep)
    except Disagreement:  # then a run decodes from the start
        stored, reached = None, {}
    total, places = 0, count()
    for total, (stream, frame) in enumerate(all_frames(path, window, partial(next, places)), start=1):
        if reached.get(total - 1) not in (None, _digest(stream, frame)):
            raise DecodeError(f"frame {total - 1} is another when reached from a key frame; encode the video anew")
    if damaged := next(places):
        return f"damaged in {damaged} place{'s'[: damaged > 1]}, where frames are missing or wrong"
    if stored not in (None, total):
        return f"{stored} frames are stored, {total} can be decoded"
    return None


def _reached(path: Path, window: Window, deep: bool) -> tuple[int, dict[int, bytes]]:
    """How many frames the packets promise, and a hash of each that was reached from its key frame."""
    with indexed(path) as (_, _, found):
        if found is None:
            raise Disagreement
        inside = window.numbers(found.times, found.time_base)
    samples = np.unique(np.linspace(inside.start, inside.stop - 1, _SAMPLES).astype(int))
    runs: list[Sequence[int]] = [samples.tolist()]
    if deep:
        begins = sorted({inside.start, *(key for key in found.keys if key in inside), inside.stop})
        runs = [range(begin, after) for begin, after in pairwise(begins)]
    reached = {}
    for run in runs:
        with indexed(path) as (stream, source, _):
            for number, frame in zip(run, frames(stream, source, found, run), strict=True):
                reached[number - inside.start] = _digest(stream, frame)
    return len(inside), reached


def _digest(stream: VideoStream, frame: VideoFrame) -> bytes:
    [picture] = Painter(Shape.of(stream, frame), None)(frame)
    return blake2b(picture.tobytes(), digest_size=16).digest()
