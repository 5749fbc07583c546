"""Work that training does not wait for."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does what it is given in a thread of its own, one after the other; the thread is waited for when Python ends.

    An error ends it: what was given later is not done, and every call from then on raises it.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._last: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        self.check()
        self._last = self._thread.submit(_after, self._last, work)

    def check(self) -> None:
        """Waits for nothing."""
        if self._last and self._last.done():
            self._last.result()

    def finish(self) -> None:
        """Returns when all is done."""
        if self._last:
            self._last.result()


def _after(before: "Future[None] | None", work: Callable[[], None]) -> None:
    if before:
        before.result()
    work()
