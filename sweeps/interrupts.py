"""Ctrl-C and SIGTERM, taken where a controller waits and nowhere else."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Interrupted(BaseException):
    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interrupts:
    """While entered, a signal raises Interrupted inside ``allowed``; one that comes earlier is kept until then."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._asked: int | None = None
        self._waiting = False

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, self._take) for each in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        if self._asked is not None:
            raise Interrupted(self._asked)
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _take(self, signum: int, frame: FrameType | None) -> None:
        self._asked = signum
        if self._waiting:
            raise Interrupted(signum)
