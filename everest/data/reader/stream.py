"""The video of a file: which stream it is, its packets, and what the decoder makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from everest.data.reader.errors import DecodeError
from everest.data.reader.window import WHOLE, Window

logging.getLogger("libav").setLevel(logging.CRITICAL)

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

Damaged = Callable[[], object]


def _ignore() -> None:
    pass


@contextmanager
def open_video(path: Path) -> Iterator[VideoStream]:
    """The video stream that a player shows, of a regular file. Raises DecodeError."""
    if not path.is_file():
        raise DecodeError("not a file" if path.exists() else "no such file")
    if not path.stat().st_size:
        raise DecodeError("the file is empty")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(_said(error)) from None
    with container:
        stream = _shown(container.streams.video)
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        stream.codec_context.thread_count = 1
        yield stream


def _shown(streams: tuple[VideoStream, ...]) -> VideoStream:
    """The default stream, or else the largest; a cover picture is no video."""
    moving = [stream for stream in streams if not stream.disposition & _PICTURES]
    if not moving:
        raise DecodeError("no video stream, only a picture" if streams else "no video stream")
    best = max(moving, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height))
    if best.codec_context is None:
        raise DecodeError("its codec is unknown here")
    return best


def packets(stream: VideoStream, damaged: Damaged = _ignore) -> Iterator[Packet[VideoStream]]:
    """Of the stream, in the order of the file, the same ones each time; up to where the file is broken off."""
    assert isinstance(stream.container, InputContainer)
    try:
        for packet in stream.container.demux(stream):
            if packet.size:
                yield packet
    except (av.FFmpegError, OSError):
        damaged()


def decode(stream: VideoStream, packet: Packet[VideoStream] | None, damaged: Damaged = _ignore) -> list[VideoFrame]:
    """The frames that a packet, or at the end None, brings forth: none where it is damaged, as players do."""
    try:
        frames: list[VideoFrame] = stream.codec_context.decode(packet)
    except (av.FFmpegError, OSError):
        damaged()
        return []
    if any(frame.is_corrupt for frame in frames):
        damaged()
    return frames


def all_frames(
    path: Path, window: Window = WHOLE, damaged: Damaged = _ignore
) -> Iterator[tuple[VideoStream, VideoFrame]]:
    """Every frame of the window that can be shown, decoded from the start, where ``damaged`` hears of each place
    that cannot.

    Raises DecodeError, also where there is none.
    """
    given, total, seconds = 0, 0, 0.0
    with open_video(path) as stream:
        clock = Clock(stream)
        for total, frame in enumerate(_decoded(stream, damaged), start=1):
            if window.whole or (seconds := clock(total - 1, frame)) in window:
                given += 1
                yield stream, frame
    if not total:
        raise DecodeError("no frame can be decoded")
    if not given:
        raise window.empty(seconds, total)


def _decoded(stream: VideoStream, damaged: Damaged) -> Iterator[VideoFrame]:
    for packet in packets(stream, damaged):
        yield from decode(stream, packet, damaged)
    yield from decode(stream, None, damaged)


class Clock:
    """When frames are shown, in seconds from the first one; by their number where they do not tell."""

    def __init__(self, stream: VideoStream) -> None:
        self._interval = 1 / rate(stream)
        self._first: Fraction | None = None

    def __call__(self, number: int, frame: VideoFrame) -> float:
        by_number = number * self._interval
        if frame.pts is None or frame.time_base is None:
            return float(by_number)
        time = frame.pts * frame.time_base
        if self._first is None:
            self._first = time - by_number
        return float(time - self._first)


def rate(stream: VideoStream) -> Fraction:
    """Frames per second, as well as the file tells."""
    return stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)


def promised_seconds(stream: VideoStream) -> float | None:
    """How long the video is, as the file says; None where it does not."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    container = stream.container
    return container.duration / av.time_base if isinstance(container, InputContainer) and container.duration else None


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
