"""Videos that cannot be read: said once each, counted, and too many end the run."""

import logging
from collections.abc import Callable, Mapping
from itertools import islice

from everest.errors import AgreedError

log = logging.getLogger(__name__)


class TooManyBad(AgreedError):
    """More of the videos are unreadable than ``data.max_bad`` allows."""


class BadVideos:
    """The unreadable videos met so far, with the reason for each."""

    def __init__(self, total: int, max_bad: float) -> None:
        self.total, self.max_bad = total, max_bad
        self.reasons: dict[str, str] = {}
        self._shared = 0  # of them, the first ones

    def add(self, met: Mapping[str, str]) -> None:
        for path, reason in met.items():
            if path not in self.reasons:
                self.reasons[path] = reason
                log.warning("unreadable video %s: %s", path, reason)

    def restore(self, reasons: Mapping[str, str]) -> None:
        """What all processes knew, which has been said."""
        self.reasons |= reasons
        self._shared = len(self.reasons)

    def share(self, gather: Callable[[dict[str, str]], list[dict[str, str]]]) -> None:
        """Only what is new since the last time goes from process to process."""
        for met in gather(dict(islice(self.reasons.items(), self._shared, None))):
            self.add(met)
        self._shared = len(self.reasons)

    @property
    def too_many(self) -> bool:
        return len(self.reasons) > self.max_bad * self.total

    def check(self) -> None:
        """Raises TooManyBad, naming the first ten."""
        if self.too_many:
            named = "; ".join(f"{path} ({reason})" for path, reason in list(self.reasons.items())[:10])
            raise TooManyBad(
                f"{len(self.reasons)} of {self.total} videos are unreadable, more than data.max_bad "
                f"{self.max_bad:g}: {named}"
            )
