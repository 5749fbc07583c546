"""What a pod's processes say: passed on to its own output, line by line with their times, and to who keeps it."""

import fcntl
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestration.log import START
from orchestration.pod.backlog import Backlog

_PIPE = 2**20  # bytes that a process can say before it is listened to
_AT_ONCE = 2**20
_LONGEST, _OVERLAP = 2**20, 2**14  # bytes of a line; of its end that may be half of what is to be hidden
_LAST = 200
_LOOK_S = 0.1
_AGAIN_S = 1.0
_LAST_WORDS_S = 10.0  # that the own output may take them


class Output:
    """While it is entered, what this process writes to its output (and error output) comes here too.

    No process waits for who takes its lines: a slow or full output, or store, costs the oldest of them. ``hide`` is
    applied to all that is said. ``kept`` has every line for whoever keeps it; ``end`` is closed when the last one is in
    it.
    """

    def __init__(self, hide: Callable[[bytes], bytes] = bytes) -> None:
        self.kept, self.end = Backlog(), ExitStack()
        self._last: deque[bytes] = deque(maxlen=_LAST)
        self._hide = hide
        self._passed = Backlog()
        self._latest = 0  # microseconds
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._out, self._err = os.dup(1), os.dup(2)
        reader, writer = os.pipe()
        _flush()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)
        self._passing = threading.Thread(target=self._pass_on, name="output", daemon=True)
        self._passing.start()
        self._own = ExitStack()
        self._own.callback(os.close, reader)
        self._own.enter_context(self.listening(reader))
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        _flush()
        os.dup2(self._out, 1)
        os.dup2(self._err, 2)
        self._own.close()
        self.end.close()
        self._passed.close()
        self._passing.join(_LAST_WORDS_S)
        self._ended.set()
        self._passing.join(_AGAIN_S)

    def begin(self, who: str) -> None:
        """A start of this pod."""
        self._take([f"{START}{who}".encode()])

    def last_lines(self) -> list[str]:
        with self._lock:
            return [line.decode(errors="replace") for line in self._last]

    @contextmanager
    def pipe(self, path: Path, prefix: str) -> Iterator[None]:
        """One by that name, for processes that ``path`` is handed to; each of their lines gets the prefix."""
        os.mkfifo(path)
        both = os.open(path, os.O_RDWR)  # so that it does not end before the first one writes
        try:
            with suppress(OSError):  # more than a user may have
                fcntl.fcntl(both, fcntl.F_SETPIPE_SZ, _PIPE)
            with self.listening(both, prefix):
                yield
        finally:
            os.close(both)

    @contextmanager
    def listening(self, pipe: int, prefix: str = "") -> Iterator[None]:
        """To what comes out of it meanwhile, and then is still in it."""
        stop = threading.Event()
        listener = threading.Thread(target=self._listen, args=(pipe, prefix.encode(), stop), daemon=True)
        listener.start()
        try:
            yield
        finally:
            stop.set()
            listener.join()

    def _listen(self, pipe: int, prefix: bytes, stop: threading.Event) -> None:
        half = b""
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        while True:
            if ready.poll(1000 * _LOOK_S):
                said = os.read(pipe, _PIPE)
                if not said:
                    break
                *lines, half = self._hide_in(half, said)
                self._take(lines, prefix)
            elif stop.is_set():
                break
        if half:
            self._take([self._hide(half)], prefix)

    def _hide_in(self, half: bytes, said: bytes) -> list[bytes]:
        """Whole lines, and what is left."""
        whole, newline, rest = said.rpartition(b"\n")
        lines = self._hide(half + whole).split(b"\n") if newline else []
        rest = rest if newline else half + rest
        if len(rest) > _LONGEST:
            rest = self._hide(rest)
            lines.append(rest[:-_OVERLAP])
            rest = rest[-_OVERLAP:]
        return [*lines, rest]

    def _take(self, lines: Sequence[bytes], prefix: bytes = b"") -> None:
        if not lines:
            return
        with self._lock:
            first = max(time.time_ns() // 1000, self._latest + 1)
            self._latest = first + len(lines)
            stamped = [b"%s %s%s\n" % (_stamp(first + place), prefix, line) for place, line in enumerate(lines)]
            self._last.extend(prefix + line for line in lines[-_LAST:])
            self._passed.add(stamped)
            self.kept.add(stamped)

    def _pass_on(self) -> None:
        more = True
        while more or self._passed:
            more = self._passed.wait(1)
            left = b"".join(self._passed.take(_AT_ONCE))
            while left and not self._ended.is_set():
                try:
                    left = left[os.write(self._out, left) :]
                except OSError:  # a full disk; or nobody reads any more
                    self._ended.wait(_AGAIN_S)


def _stamp(microseconds: int) -> bytes:
    seconds, rest = divmod(microseconds, 10**6)
    return b"%s.%06dZ" % (_second(seconds), rest)


@lru_cache(4)
def _second(seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
