"""The video of a file: which stream it is, its packets, and what the decoder makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from everest.data.reader.errors import DecodeError

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


def all_frames(path: Path, damaged: Damaged = _ignore) -> Iterator[tuple[VideoStream, VideoFrame]]:
    """Every frame that can be shown, decoded from the start; ``damaged`` hears of each place that cannot.

    Raises DecodeError.
    """
    with open_video(path) as stream:
        for packet in packets(stream, damaged):
            for frame in decode(stream, packet, damaged):
                yield stream, frame
        for frame in decode(stream, None, damaged):
            yield stream, frame


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
