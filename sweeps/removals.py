"""Jobs that nobody needs any more are removed in the background: each has its grace to end."""

import time
from collections.abc import Container, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from orchestration.job import Launcher, UnknownJobError, Unreachable

_AT_A_TIME = 8


class Removals:
    def __init__(self, launcher: Launcher, every_s: float) -> None:
        self._launcher, self._every_s = launcher, every_s
        self._pool = ThreadPoolExecutor(_AT_A_TIME)
        self._begun: dict[str, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Waits until all are gone."""
        self._pool.shutdown()

    def begin(self, name: str) -> None:
        self._begun[name] = self._pool.submit(self._remove, name)

    def all_of(self, names: Iterable[str]) -> None:
        """Returns when they are cancelled."""
        for done in [self._pool.submit(self._remove, name) for name in names]:
            done.result()

    def under_way(self, name: str) -> bool:
        return name in self._begun and not self._begun[name].done()

    def any_left(self, there: Container[str]) -> bool:
        """Whether one of the jobs is still ``there``. Raises what went wrong with one that ended."""
        for done in self._begun.values():
            if done.done():
                done.result()
        return any(not done.done() or name in there for name, done in self._begun.items())

    def _remove(self, name: str) -> None:
        while True:
            try:
                self._launcher.cancel(name)
            except UnknownJobError:
                return
            except Unreachable:
                time.sleep(self._every_s)
            else:
                return
