"""Videos that cannot be read: said once each, counted, and too many end the run."""

import logging

from everest.errors import EverestError

log = logging.getLogger(__name__)


class TooManyBad(EverestError):
    """More of the videos are unreadable than ``data.max_bad`` allows."""


class BadVideos:
    def __init__(self, total: int, max_bad: float) -> None:
        self.total, self.max_bad = total, max_bad
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, met: dict[str, str]) -> None:
        """Raises TooManyBad, naming the first ten."""
        for path, reason in met.items():
            if path not in self._reasons:
                self._reasons[path] = reason
                log.warning("unreadable video %s: %s", path, reason)
        if len(self) > self.max_bad * self.total:
            named = "; ".join(f"{path} ({reason})" for path, reason in list(self._reasons.items())[:10])
            raise TooManyBad(
                f"{len(self)} of {self.total} videos are unreadable, more than data.max_bad {self.max_bad:g}: {named}"
            )
