"""The child process, ``python -m everest.data.reader.child DESCRIPTOR``: it answers in JSON and raw pixels."""

import json
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from everest.data.reader import frames
from everest.data.reader.compare import compare
from everest.data.reader.errors import DecodeError


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # who asks decides; without it the connection ends
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, ConnectionError), Connection(int(sys.argv[1])) as connection:
        while True:
            _answer(connection, **json.loads(connection.recv_bytes()))


def _answer(connection: Connection, task: str, path: str, **options: Any) -> None:
    def say(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    def choose(total: int) -> list[int]:
        say({"total": total})
        numbers: list[int] = json.loads(connection.recv_bytes())["numbers"]
        return numbers

    try:
        if task == "jpegs":
            _send_jpegs(connection, Path(path), **options)
            say({"end": True})
            return
        if task == "compare":
            say({"remark": compare(Path(path), **options)})
            return
        if task == "decord":
            from everest.data.reader import by_decord

            pixels = by_decord.read(Path(path), choose=choose, **options)
        else:
            pixels = frames.read(Path(path), choose=choose, **options)
    except DecodeError as error:
        say({"unreadable": str(error)})
    else:
        say({"shape": pixels.shape})
        connection.send_bytes(np.ascontiguousarray(pixels).data.cast("B"))


def _send_jpegs(connection: Connection, path: Path, short_side: int, every: int, quality: int) -> None:
    from simplejpeg import encode_jpeg

    for found in frames.pictures(path, short_side, every):
        if isinstance(found, frames.Facts):
            connection.send_bytes(json.dumps(found._asdict()).encode())
        else:
            picture = np.ascontiguousarray(found)
            connection.send_bytes(encode_jpeg(picture, quality=quality, colorsubsampling="420"))


if __name__ == "__main__":
    main()
