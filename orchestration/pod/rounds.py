"""Which pods of a job work together, and until when. Pure: no sockets and no clock.

A round is worked by a team of pods until one of it is lost, or until more can take part. The next one begins when all
that are left have come out of it, so that no two rounds ever go on at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SETTLE_S = 30.0  # that others have to come, where the team could be larger
BROKEN_S = 30.0  # that the rest of a broken team has to come out of its round by itself


class Order(NamedTuple):
    """To a pod: begin a round, save and come out of it, or come out of it at once."""

    kind: Literal["begin", "save", "end"]
    round: int
    team: tuple[int, ...]  # pods by their numbers; the first has rank 0


@dataclass
class Rounds:
    """Numbers of pods that may work together, the smallest first; seconds that a pod may take to save."""

    sizes: Sequence[int]
    grace_s: float
    number: int = 0  # of the last round
    team: tuple[int, ...] = ()
    here: set[int] = field(default_factory=set)
    working: set[int] = field(default_factory=set)  # of the team, those that have not come out yet
    _changed: float = 0.0  # when a pod came or went
    _end_at: float | None = None  # where the round is to end: when patience does
    _ended: bool = False

    def ready(self, pod: int, number: int, now: float) -> None:
        """A pod has come, or come out of that round."""
        if pod not in self.here:
            self.here.add(pod)
            self._changed = now
        if number == self.number:
            self.working.discard(pod)

    def gone(self, pod: int, now: float) -> None:
        """Lost, or ended."""
        if pod in self.working:
            self._end_by(now + BROKEN_S)
        self.here.discard(pod)
        self.working.discard(pod)
        self._changed = now

    def orders(self, now: float) -> dict[int, Order]:
        """What pods are to do now that they were not told before."""
        if not self.working:
            return self._begin(now)
        if self._end_at is None and self.working != set(self.team):
            self._end_by(now + BROKEN_S)
        elif self._end_at is None and self._settled(now) > len(self.team):
            self._end_by(now + self.grace_s)
            return self._to_all("save")
        elif self._end_at is not None and now >= self._end_at and not self._ended:
            self._ended = True
            return self._to_all("end")
        return {}

    def _end_by(self, moment: float) -> None:
        self._end_at = min(moment, self._end_at or moment)

    def _begin(self, now: float) -> dict[int, Order]:
        size = self._settled(now)
        if not size:
            return {}
        self.number += 1
        self.team = tuple(sorted(self.here)[:size])
        self.working, self._end_at, self._ended = set(self.team), None, False
        return self._to_all("begin")

    def _settled(self, now: float) -> int:
        """How many of those that are here may work together; 0 while there are too few, or others may be coming."""
        size = max((size for size in self.sizes if size <= len(self.here)), default=0)
        return size if size == self.sizes[-1] or now - self._changed >= SETTLE_S else 0

    def _to_all(self, kind: Literal["begin", "save", "end"]) -> dict[int, Order]:
        return {pod: Order(kind, self.number, self.team) for pod in self.working}
