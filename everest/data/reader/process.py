"""Reading in a child process, which can be ended: native code that hangs or crashes on a file costs that file alone.

The two speak JSON and raw pixels; nothing that a broken reader could say is ever executed here.
"""

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from everest.data.reader.errors import DecodeError

TIME_LIMIT_S = 120.0


class Reader:
    """A child process that reads one video after another, and is begun anew after one that ended it."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "everest.data.reader.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is not for it
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.end = weakref.finalize(self, _end, os.getpid(), self.process, self.connection)

    @property
    def alive(self) -> bool:
        return self.end.alive and self.process.poll() is None

    def ask(self, question: dict[str, Any], limit_s: float, choose: Callable[[int], list[int]]) -> Any:
        """The child's answer: pixels, uint8 (n, H, W, 3), or what else it says. Raises DecodeError."""
        until = time.monotonic() + limit_s
        whole = False
        try:
            self._send(question)
            while "total" in (answer := json.loads(self._receive(until, limit_s))):
                self._send({"numbers": choose(answer["total"])})
            if "shape" in answer:
                pixels = np.empty(answer["shape"], np.uint8)
                self._wait(until, limit_s)
                self.connection.recv_bytes_into(pixels.data.cast("B"))
                answer["pixels"] = pixels
            whole = True
        except (EOFError, ConnectionError):
            raise DecodeError(f"reading it crashed ({_how(self.process)})") from None
        finally:
            if not whole:
                self.end()
        if "unreadable" in answer:
            raise DecodeError(answer["unreadable"])
        return answer

    def stream(self, question: dict[str, Any], limit_s: float) -> Iterator[dict[str, Any] | bytes]:
        """What the child says one after another, JSON or JPEGs, each within the limit. Raises DecodeError."""
        whole = False
        try:
            self._send(question)
            while True:
                message = self._receive(time.monotonic() + limit_s, limit_s)
                answer = json.loads(message) if message.startswith(b"{") else message
                if isinstance(answer, dict) and answer.keys() & {"end", "unreadable"}:
                    whole = True
                    break
                yield answer
        except (EOFError, ConnectionError):
            raise DecodeError(f"reading it crashed ({_how(self.process)})") from None
        finally:
            if not whole:
                self.end()
        if "unreadable" in answer:
            raise DecodeError(answer["unreadable"])

    def _send(self, message: dict[str, Any]) -> None:
        self.connection.send_bytes(json.dumps(message).encode())

    def _receive(self, until: float, limit_s: float) -> bytes:
        self._wait(until, limit_s)
        return self.connection.recv_bytes()

    def _wait(self, until: float, limit_s: float) -> None:
        if not self.connection.poll(max(0, until - time.monotonic())):
            raise DecodeError(f"reading it took longer than {limit_s:g} s (data.time_limit)")


def _end(owner: int, process: "subprocess.Popen[bytes]", connection: Connection) -> None:
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
    path: Path, limit_s: float, choose: Callable[[int], list[int]] = lambda total: [], **question: Any
) -> dict[str, Any]:
    return reader().ask({"path": str(path), **question}, limit_s, choose)


def stream(path: Path, limit_s: float, **question: Any) -> Iterator[dict[str, Any] | bytes]:
    return reader().stream({"path": str(path), **question}, limit_s)
