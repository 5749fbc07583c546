"""The same frames by decord, of files whose frames it is known to number rightly.

decord counts packets: it loses its numbering where some are not shown, where frames follow a key frame in the
file and are shown before it, and where decoding can begin at other frames than instantaneous refreshes (IDR).
"""

from __future__ import annotations

import re
from pathlib import Path

import decord
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from everest.data.reader.errors import DecodeError
from everest.data.reader.frames import Choose, Disagreement, frames, indexed
from everest.data.reader.index import Index
from everest.data.reader.picture import Shape, together
from everest.data.reader.units import begins_anew
from everest.data.reader.window import Window

decord.logging.set_level(decord.logging.QUIET)

_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_REFUSED = DecodeError("decord would not number its frames rightly; use data.reader av")
_WHERE = re.compile(r".*\.cc:\d+: ")  # decord says first which line of its own source stumbled


def read(path: Path, window: Window, choose: Choose) -> np.ndarray:
    """As ``frames.read``. Raises DecodeError also where decord would give other frames."""
    shape, total, inside = _facts(path, window)
    wanted, paint = choose(len(inside), shape)
    try:
        video = decord.VideoReader(str(path), num_threads=1)
        if len(video) != total:
            raise _REFUSED
        pixels = video.get_batch([inside[number] for number in wanted]).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError(_reason(error)) from None
    return together([paint(VideoFrame.from_ndarray(picture, "rgb24")) for picture in pixels])


def _facts(path: Path, window: Window) -> tuple[Shape, int, range]:
    """How large decord's pictures are to be shown, the number of frames, and those inside the window.

    Raises DecodeError for a file that decord is not trusted with.
    """
    with indexed(path) as (stream, source, found):
        held = list(source)
        if found is None or not _trusted(stream, held, found):
            raise _REFUSED
        try:
            shape = Shape.of(stream, next(frames(stream, held, found, [0])))
        except Disagreement:
            raise _REFUSED from None
        if shape.turn.in_a_mirror:
            raise DecodeError("decord would not show its frames mirrored; use data.reader av")
        return shape.upright(), len(found), window.numbers(found.times, found.time_base)


def _trusted(stream: VideoStream, source: list[Packet[VideoStream]], found: Index) -> bool:
    return (
        stream.codec.name == "h264"
        and stream.container.format.name in _CONTAINERS
        and len(stream.container.streams.video) == 1
        and len(source) == len(found)
        and found.times[0] == 0
        and all(max(found.packets[:key], default=-1) < found.packets[key] for key in found.keys)
        and all(begins_anew(stream, source[found.packets[key]]) for key in found.keys)
    )


def _reason(error: Exception) -> str:
    said = str(error).splitlines()
    return f"decoding failed: {_WHERE.sub('', said[0])[:120]}" if said else type(error).__name__
