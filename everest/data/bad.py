"""Videos that cannot be read: said once each, counted, and too many end the run."""

import logging
from collections.abc import Mapping

from everest.errors import AgreedError

log = logging.getLogger(__name__)


class TooManyBad(AgreedError):
    """More of the videos are unreadable than ``data.max_bad`` allows."""


class BadVideos:
    """The unreadable videos met so far, with the reason for each."""

    def __init__(self, total: int, max_bad: float) -> None:
        self.total, self.max_bad = total, max_bad
        self.reasons: dict[str, str] = {}

    def add(self, met: Mapping[str, str]) -> None:
        for path, reason in met.items():
            if path not in self.reasons:
                self.reasons[path] = reason
                log.warning("unreadable video %s: %s", path, reason)

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
