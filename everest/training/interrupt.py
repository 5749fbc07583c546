"""SIGTERM and Ctrl-C: noticed at once, acted upon between steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from everest.errors import AgreedError, EverestError


class Interrupted(AgreedError):
    """The run was asked to stop, and did after saving what it had. ``because``: for a reason, and no signal's sake."""

    def __init__(self, message: str, signum: int, because: str = "") -> None:
        super().__init__(f"{because}; {message}" if because else message)
        self.exit_code = EverestError.exit_code if because else 128 + signum


class StopRequest:
    """The signal that asked for a stop; 0 where none did. ``because``: why, where it was no signal."""

    signum = 0
    because = ""

    def ask(self, because: str) -> None:
        """As SIGTERM does, for a reason that is told. From any thread."""
        self.because, self.signum = because, signal.SIGTERM

    def check(self) -> None:
        """Raises Interrupted: for long work that has nothing of its own to save."""
        if self.signum:
            raise Interrupted("interrupted; what was saved is kept", self.signum, self.because)


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
