"""Work for a server that may be away: done in order, in a thread of its own, tried until it succeeds."""

import logging
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
)

from everest.errors import EverestError

log = logging.getLogger(__name__)

Operation = Callable[[], Any]
LONGEST_WAIT_S = 10
DICE = random.SystemRandom()  # of all waiting: not the ones that training draws from
SAY_EVERY_S = 15


def pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: growing, and random, so that many processes do not come at once."""
    return DICE.uniform(0, min(LONGEST_WAIT_S, 0.5 * 2 ** min(state.attempt_number - 1, 10)))


class Away(EverestError):
    """A server has not answered for as long as one was willing to wait."""


class _Entry(NamedTuple):
    key: str | None
    operation: Operation
    dropped: Operation = lambda: None


class Outbox:
    """Operations on ``server``. Errors for which ``passes`` is true are waited out, with growing, random pauses.

    Any other error stops the outbox: that operation and those behind it are not done, and ``add`` and ``flush``
    raise it from then on. ``add`` and ``submit`` never wait. ``describe`` makes a line of an error.
    """

    def __init__(
        self,
        server: str,
        passes: Callable[[BaseException], bool],
        describe: Callable[[BaseException], str] | None = None,
    ) -> None:
        self.server, self._describe = server, describe or one_line
        self._operations: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._away_since: float | None = None
        self._said: set[str] = set()  # of this outage, each kind of error once
        self._last = "no answer yet"
        self._retrying = Retrying(
            retry=retry_if_exception(passes),
            wait=pause,
            stop=stop_when_event_set(self._closing),
            sleep=sleep_using_event(self._closing),
            before_sleep=self._say_away,
            reraise=True,
        )
        self._thread = threading.Thread(target=self._work, name=f"outbox {server}", daemon=True)
        self._thread.start()

    def add(self, operation: Operation) -> None:
        with self._changed:
            self._append(_Entry(None, operation))

    def submit(self, key: str, operation: Operation, dropped: Operation = lambda: None) -> None:
        """Takes the place of what waits under ``key``; what is being tried at the moment is finished."""
        with self._changed:
            begun, waiting = list(self._operations)[:1], list(self._operations)[1:]
            self._operations = deque(begun + [entry for entry in waiting if entry.key != key])
            for entry in waiting:
                if entry.key == key:
                    entry.dropped()
            self._append(_Entry(key, operation, dropped))

    def flush(self, seconds: float) -> None:
        """Returns when all is done. Raises Away after ``seconds``, or the error that stopped the outbox."""
        started = said = time.monotonic()
        with self._changed:
            while self._operations and not self._failure:
                now = time.monotonic()
                if now - started > seconds:
                    raise Away(
                        f"{self.server} has not taken what was left for it in {seconds:.0f} s; at last: {self._last}"
                    )
                if now - said > SAY_EVERY_S:
                    log.warning("waiting for %s: %d left, %.0f s of %.0f (%s)", self.server, len(self._operations),
                                now - started, seconds, self._last)  # fmt: skip
                    said = now
                self._changed.wait(0.5)
            self._raise_failure()

    def close(self, seconds: float | None = None) -> None:
        """Ends the thread; what is not done by then is left undone. ``seconds``: that it is waited for at most."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(seconds)

    def _append(self, entry: "_Entry") -> None:
        self._raise_failure()
        self._operations.append(entry)
        self._changed.notify_all()

    def _work(self) -> None:
        while operation := self._next():
            try:
                self._retrying(operation)
            except BaseException as error:
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            if self._away_since is not None:
                log.info("%s answers again, after %.0f s", self.server, time.monotonic() - self._away_since)
                self._away_since, self._said, self._last = None, set(), "no answer yet"
            with self._changed:
                self._operations.popleft()
                self._changed.notify_all()

    def _next(self) -> Operation | None:
        with self._changed:
            self._changed.wait_for(lambda: self._operations or self._closing.is_set())
            return None if self._closing.is_set() else self._operations[0].operation

    def _say_away(self, state: RetryCallState) -> None:
        cause = state.outcome and state.outcome.exception()
        self._last = self._describe(cause) if cause else ""
        self._away_since = self._away_since or time.monotonic()
        kind = re.sub(r"0x\w+|\d+", "", self._last)
        if kind not in self._said:
            log.warning("%s does not answer; going on, and trying again (%s)", self.server, self._last)
            self._said.add(kind)

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure


def one_line(error: object) -> str:
    """The first line of what an error says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
