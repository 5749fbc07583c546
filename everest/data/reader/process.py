"""Reading in a child process, which can be ended: native code that hangs or crashes on a file costs that file alone.

The two speak JSON and raw bytes; nothing that a broken reader could say is ever executed here.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from everest.data.reader.errors import DecodeError
from everest.data.reader.wire import Gone, Late, Wire

TIME_LIMIT_S = 120.0


#: From the number of frames, their height and their width to what is wanted of them.
Choose = Callable[[int, int, int], dict[str, Any]]


class Reader:
    """A child process that reads one video after another, and is begun anew after one that ended it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "everest.data.reader.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is not for it
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.wire = Wire(ours)
        self.end = weakref.finalize(self, _end, os.getpid(), self.process, ours)

    @property
    def alive(self) -> bool:
        return self.end.alive and self.process.poll() is None

    def ask(self, question: dict[str, Any], limit_s: float, choose: Choose) -> dict[str, Any]:
        """The child's answer, all of it within the limit, with ``pixels`` if it sends some. Raises DecodeError."""
        with self._talk(limit_s):
            self.wire.say(question)
            while "total" in (answer := self.wire.hear()):
                self.wire.say(choose(answer["total"], answer["height"], answer["width"]))
            if "shape" in answer:
                answer["pixels"] = np.empty(answer["shape"], np.uint8)
                self.wire.receive_into(answer["pixels"].data)
        if "unreadable" in answer:
            raise DecodeError(answer["unreadable"])
        return answer

    def stream(self, question: dict[str, Any], limit_s: float) -> Iterator[dict[str, Any] | bytes]:
        """What the child says one after another, JSON or other bytes, each within the limit. Raises DecodeError."""
        with self._talk(limit_s):
            self.wire.say(question)
            while True:
                self.wire.allow(limit_s)
                message = self.wire.receive()
                answer = json.loads(message) if message.startswith(b"{") else message
                if isinstance(answer, dict) and answer.keys() & {"end", "unreadable"}:
                    break
                yield answer
        if "unreadable" in answer:
            raise DecodeError(answer["unreadable"])

    @contextmanager
    def _talk(self, limit_s: float) -> Iterator[None]:
        """If it is broken off, the child ends: what it says next would not be of the next talk."""
        self.wire.allow(limit_s)
        whole = False
        try:
            yield
            whole = True
        except Late:
            raise DecodeError(f"reading it took longer than {limit_s:g} s (data.time_limit)") from None
        except Gone:
            raise DecodeError(f"reading it crashed ({_how(self.process)})") from None
        finally:
            if not whole:
                self.end()


def _end(owner: int, process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    if owner != os.getpid():  # a fork's copy
        return
    connection.close()
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def _how(process: "subprocess.Popen[bytes]") -> str:
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    if process.returncode is None:
        return "it fell silent"
    return f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"


_ours = threading.local()


def reader() -> Reader:
    """The one of this thread."""
    found: tuple[int, Reader] | None = getattr(_ours, "reader", None)
    if found is None or found[0] != os.getpid() or not found[1].alive:
        _ours.reader = found = (os.getpid(), Reader())
    return found[1]


def ask(
    path: Path, limit_s: float, choose: Choose = lambda total, height, width: {}, **question: Any
) -> dict[str, Any]:
    return reader().ask({"path": str(path), **question}, limit_s, choose)


def stream(path: Path, limit_s: float, **question: Any) -> Iterator[dict[str, Any] | bytes]:
    """By this thread's reader, which is nobody else's before all is said."""
    own, _ours.reader = reader(), None
    try:
        yield from own.stream({"path": str(path), **question}, limit_s)
    finally:
        _ours.reader = (os.getpid(), own)
