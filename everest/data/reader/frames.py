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

from everest.data.reader.errors import DecodeError
from everest.data.reader.index import Index, index
from everest.data.reader.picture import Painter, Shape
from everest.data.reader.stream import all_frames, decode, open_video, packets

_HELD_BYTES = 64 * 2**20  # what is larger is gone through twice instead


class Disagreement(Exception):
    """The decoder does not bring forth the frames that the packets promise."""


def read(path: Path, short_side: int | None, choose: Callable[[int], Sequence[int]]) -> np.ndarray:
    """The frames that ``choose(frame count)`` asks for, rising: uint8 (n, H, W, 3). Raises DecodeError.

    ``choose`` is asked again where the count turns out to be another.
    """
    try:
        return _read_by_index(path, short_side, choose)
    except Disagreement:
        return _read_from_start(path, short_side, choose)


def _read_by_index(path: Path, short_side: int | None, choose: Callable[[int], Sequence[int]]) -> np.ndarray:
    with indexed(path) as (stream, source, found):
        if found is None:
            raise Disagreement
        wanted = choose(len(found))
        size = stream.codec_context.width, stream.codec_context.height
        painter: Painter | None = None
        pictures = []
        for frame in frames(stream, source, found, wanted):
            if (frame.width, frame.height) != size:
                raise Disagreement
            painter = painter or Painter(Shape.of(stream, frame), short_side)
            pictures.append(painter(frame))
    return np.stack(pictures)


def _read_from_start(path: Path, short_side: int | None, choose: Callable[[int], Sequence[int]]) -> np.ndarray:
    """Decodes all of it to know the count, and once more where it does not fit into memory."""
    painter: Painter | None = None
    held: list[VideoFrame] | None = []
    total = size = 0
    for stream, frame in all_frames(path):
        total += 1
        painter = painter or Painter(Shape.of(stream, frame), short_side)
        size += sum(plane.buffer_size for plane in frame.planes)
        if size > _HELD_BYTES:
            held = None
        elif held is not None:
            held.append(frame)
    if painter is None:
        raise DecodeError("no frame can be decoded")
    wanted = set(choose(total))
    again = held if held is not None else (frame for _, frame in all_frames(path))
    found = (frame for number, frame in enumerate(again) if number in wanted)
    return np.stack([painter(frame) for frame in islice(found, len(wanted))])


class Facts(NamedTuple):
    """What all pictures of a video have in common. Sizes in pixels."""

    height: int
    width: int
    shown_height: int  # of the original
    shown_width: int
    rate: float  # pictures per second; 0 where the file does not tell


def pictures(path: Path, short_side: int, every: int) -> Iterator[Facts | np.ndarray]:
    """Goes through a video once: its facts, then every n-th frame, uint8 (H, W, 3). Raises DecodeError.

    Facts that come again say that it begins anew, and that what came before does not count.
    """
    try:
        with indexed(path) as (stream, source, found):
            if found is None:
                raise Disagreement
            wanted = frames(stream, source, found, range(0, len(found), every))
            yield from _painted(((stream, frame) for frame in wanted), short_side, every, one_size=True)
    except Disagreement:
        yield from _painted(islice(all_frames(path), 0, None, every), short_side, every, one_size=False)


def _painted(
    decoded: Iterable[tuple[VideoStream, VideoFrame]], short_side: int, every: int, one_size: bool
) -> Iterator[Facts | np.ndarray]:
    painter = None
    for stream, frame in decoded:
        if painter is None:
            size, shown = (frame.width, frame.height), Shape.of(stream, frame).seen()
            painter = Painter(Shape.of(stream, frame), short_side)
            yield Facts(*painter.shape.seen(), *shown, float(stream.average_rate or 0) / every)
        elif one_size and (frame.width, frame.height) != size:
            raise Disagreement
        yield painter(frame)
    if painter is None:
        raise DecodeError("no frame can be decoded")


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
    for number in wanted:
        key = found.key_before(number)
        if found.start(key) > forward.place:
            run = _checked(forward.decode_from(found.start(key)), found, key, left_out)
        yield next(frame for at, frame in run if at == number)


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
