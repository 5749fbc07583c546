"""SIGTERM and Ctrl-C: noticed at once, acted upon between steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from everest.errors import AgreedError


class Interrupted(AgreedError):
    """The run was asked to stop, and did after saving what it had."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class StopRequest:
    """The signal that asked for a stop; 0 where none did."""

    signum = 0

    def check(self) -> None:
        """Raises Interrupted: for long work that has nothing of its own to save."""
        if self.signum:
            raise Interrupted("interrupted; what was saved is kept", self.signum)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a request; a second one acts as it always does."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _frame: FrameType | None) -> None:
        request.signum = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
