"""The child process, ``python -m everest.data.reader.child DESCRIPTOR``: it answers in JSON and raw bytes."""

import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from everest.data.crop import Crop
from everest.data.reader import frames
from everest.data.reader.compare import compare
from everest.data.reader.errors import DecodeError
from everest.data.reader.picture import Cutter, Paint, Painter, Shape
from everest.data.reader.window import Window
from everest.data.reader.wire import PICTURE_HEAD, Gone, Wire
from everest.pulse import can_be_asked


def main() -> None:
    can_be_asked("reader of videos")
    for number in (signal.SIGINT, signal.SIGTERM):  # who asks decides; without it the connection ends
        signal.signal(number, signal.SIG_IGN)
    with suppress(Gone), socket.socket(fileno=int(sys.argv[1])) as connection:
        wire = Wire(connection)
        while True:
            _answer(wire, **wire.hear())


def _answer(wire: Wire, task: str, path: str, start: float = 0.0, end: float | None = None, **options: Any) -> None:
    try:
        _TASKS[task](wire, Path(path), Window(start, end), **options)
    except DecodeError as error:
        wire.say({"unreadable": str(error)})


def _send_frames(wire: Wire, path: Path, window: Window, reader: str) -> None:
    """Says how many and how large frames there are, as often as that changes, and hears each time what is wanted."""

    def choose(total: int, shape: Shape) -> tuple[Sequence[int], Paint]:
        height, width = shape.seen()
        wire.say({"total": total, "height": height, "width": width})
        wanted = wire.hear()
        if "crops" in wanted:
            return wanted["numbers"], Cutter(shape.turn, [Crop(*crop) for crop in wanted["crops"]], wanted["size"])
        return wanted["numbers"], Painter(shape, wanted["short_side"])

    if reader == "decord":
        from everest.data.reader import by_decord

        pixels = by_decord.read(path, window, choose)
    else:
        pixels = frames.read(path, window, choose)
    wire.say({"shape": pixels.shape})
    wire.send(pixels.data)


def _send_jpegs(wire: Wire, path: Path, window: Window, short_side: int, every: int, quality: int) -> None:
    from simplejpeg import encode_jpeg

    for found in frames.pictures(path, window, short_side, every):
        if isinstance(found, frames.Begin):
            wire.say(found.facts._asdict())
        else:
            picture = np.ascontiguousarray(found.pixels)
            wire.send(encode_jpeg(picture, quality=quality, colorsubsampling="420"))
    wire.say({"end": True})


def _send_pictures(wire: Wire, path: Path, window: Window, short_side: int, every: int) -> None:
    for found in frames.pictures(path, window, short_side, every):
        if isinstance(found, frames.Begin):
            wire.say({"facts": found.facts, "seconds": found.seconds})
        else:
            wire.send(PICTURE_HEAD.pack(found.seconds) + found.pixels.tobytes())
    wire.say({"end": True})


def _send_remark(wire: Wire, path: Path, window: Window, deep: bool) -> None:
    wire.say({"remark": compare(path, window, deep)})


_TASKS: dict[str, Callable[..., None]] = {
    "frames": _send_frames,
    "jpegs": _send_jpegs,
    "pictures": _send_pictures,
    "compare": _send_remark,
}

if __name__ == "__main__":
    main()
