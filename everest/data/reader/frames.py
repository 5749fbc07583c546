"""Frames by their number: from the key frame before where the packets say enough, or else from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from everest.data.reader.index import Index, index
from everest.data.reader.picture import Paint, Painter, Shape, together
from everest.data.reader.stream import Clock, all_frames, decode, open_video, packets, promised_seconds, rate
from everest.data.reader.window import Window

_HELD_BYTES = 64 * 2**20  # what is larger is gone through twice instead


class Disagreement(Exception):
    """The decoder does not bring forth the frames that the packets promise."""


#: From (number of frames, how large and turned they are) to the numbers of frames, rising, and how to paint them.
Choose = Callable[[int, Shape], tuple[Sequence[int], Paint]]


def read(path: Path, window: Window, choose: Choose) -> np.ndarray:
    """The pictures of the frames that ``choose`` asks for: uint8 (pictures of each, frames, H, W, 3).

    ``choose`` is asked again where the count or the shape turns out to be another. Raises DecodeError.
    """
    try:
        painted = _read_by_index(path, window, choose)
    except Disagreement:
        painted = _read_from_start(path, window, choose)
    return together(painted)


def _read_by_index(path: Path, window: Window, choose: Choose) -> list[list[np.ndarray]]:
    with indexed(path) as (stream, source, found):
        if found is None or not stream.codec_context.width:
            raise Disagreement
        inside = window.numbers(found.times, found.time_base)
        promised = Shape.promised(stream)
        wanted, paint = choose(len(inside), promised)
        if max(wanted) >= len(inside):
            raise Disagreement
        painted: list[list[np.ndarray]] = []
        for frame in frames(stream, source, found, [inside[number] for number in wanted]):
            if not painted and (shape := Shape.of(stream, frame)) != promised:
                again, paint = choose(len(inside), shape)
                if again != wanted:
                    raise Disagreement
            painted.append(paint(frame))
    return painted


def _read_from_start(path: Path, window: Window, choose: Choose) -> list[list[np.ndarray]]:
    """Decodes all of it to know the count, and once more where it does not fit into memory."""
    shape: Shape | None = None
    held: list[VideoFrame] | None = []
    total = size = 0
    for stream, frame in all_frames(path, window):
        total += 1
        shape = shape or Shape.of(stream, frame)
        size += sum(plane.buffer_size for plane in frame.planes)
        if size > _HELD_BYTES:
            held = None
        elif held is not None:
            held.append(frame)
    assert shape is not None
    wanted, paint = choose(total, shape)
    again = held if held is not None else (frame for _, frame in all_frames(path, window))
    among = set(wanted)
    found = (frame for number, frame in enumerate(again) if number in among)
    return [paint(frame) for frame in islice(found, len(among))]


class Facts(NamedTuple):
    """What all pictures of a video have in common. Sizes in pixels."""

    height: int
    width: int
    shown_height: int  # of the original
    shown_width: int
    rate: float  # pictures per second


class Begin(NamedTuple):
    """Goes before the pictures of a video."""

    facts: Facts
    seconds: float | None  # about how long the video is, all of it; None where the file does not tell


class Picture(NamedTuple):
    """One of them, and when it is shown, in seconds from the first."""

    seconds: float
    pixels: np.ndarray  # uint8 (H, W, 3)


def pictures(path: Path, window: Window, short_side: int, every: int) -> Iterator[Begin | Picture]:
    """Goes through a video once, for every n-th frame. Raises DecodeError.

    Another Begin says that it begins anew, and that what came before does not count.
    """
    try:
        with indexed(path) as (stream, source, found):
            if found is None:
                raise Disagreement
            inside = window.numbers(found.times, found.time_base)
            wanted = frames(stream, source, found, inside[::every])
            yield from _painted(((stream, frame) for frame in wanted), short_side, every)
    except Disagreement:
        yield from _painted(islice(all_frames(path, window), 0, None, every), short_side, every)


def _painted(
    decoded: Iterable[tuple[VideoStream, VideoFrame]], short_side: int, every: int
) -> Iterator[Begin | Picture]:
    painter: Painter | None = None
    for number, (stream, frame) in enumerate(decoded):
        if painter is None:
            shape, clock = Shape.of(stream, frame), Clock(stream)
            painter = Painter(shape, short_side)
            facts = Facts(*painter.shape.seen(), *shape.seen(), float(rate(stream) / every))
            yield Begin(facts, promised_seconds(stream))
        [pixels] = painter(frame)
        yield Picture(clock(number * every, frame), pixels)


@contextmanager
def indexed(path: Path) -> Iterator[tuple[VideoStream, Iterable[Packet[VideoStream]], Index | None]]:
    """The stream of a file, its packets from the first one on, and what they tell. Raises DecodeError."""
    with open_video(path) as stream:
        if path.stat().st_size <= _HELD_BYTES:
            held = list(packets(stream))
            yield stream, held, index(stream, held)
            return
        found = index(stream, packets(stream))
    with open_video(path) as stream:
        yield stream, packets(stream), found


def frames(
    stream: VideoStream, source: Iterable[Packet[VideoStream]], found: Index, wanted: Sequence[int]
) -> Iterator[VideoFrame]:
    """Those of the rising numbers ``wanted``. Raises Disagreement rather than give another one.

    Frames that neither are wanted nor serve others are not decoded.
    """
    left_out = found.spare.difference(wanted)
    forward = _Forward(stream, source, {found.packets[number] for number in left_out})
    run: Iterator[tuple[int, VideoFrame]] = iter(())
    size = stream.codec_context.width, stream.codec_context.height
    for number in wanted:
        key = found.key_before(number)
        if found.start(key) > forward.place:
            run = _checked(forward.decode_from(found.start(key)), found, key, left_out)
        picture = next(frame for at, frame in run if at == number)
        if (picture.width, picture.height) != size:
            raise Disagreement
        yield picture


def _checked(
    decoded: Iterator[VideoFrame], found: Index, key: int, left_out: Set[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Numbers the frames decoded from a key frame on; those shown before it lack what they refer to."""
    number = key
    for frame in decoded:
        while number in left_out:
            number += 1
        if frame.pts is None or number == len(found):
            raise Disagreement
        if frame.pts < found.times[key]:
            continue
        if frame.pts != found.times[number] or (number == key > 0 and not frame.key_frame):
            raise Disagreement
        yield number, frame
        number += 1
    raise Disagreement


class _Forward:
    """Goes through the packets of a stream once, decoding some of them."""

    def __init__(self, stream: VideoStream, source: Iterable[Packet[VideoStream]], left_out: Set[int]) -> None:
        self.stream, self.left_out = stream, left_out
        self.place = -1  # of the last packet read
        self._packets = enumerate(source)

    def decode_from(self, place: int) -> Iterator[VideoFrame]:
        if self.place >= 0:
            self.stream.codec_context.flush_buffers()
        for at, packet in self._packets:
            self.place = at
            if at >= place and at not in self.left_out:
                yield from decode(self.stream, packet)
        yield from decode(self.stream, None)
