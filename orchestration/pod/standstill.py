"""Which processes of a pod stand still, by what they noted. Pure: no clock and no processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from everest.pulse import Beat
from orchestration.settings import PlatformSettings

#: Phases that every step goes through; the others may take as long as ``stall_slow_s``.
_OF_STEPS = {"data", "forward", "backward", "update", "device"}
_WAITS = "collective"


class Bounds(NamedTuple):
    """For how long a process may not go on."""

    steps: float  # as many usual steps; 0: for ever
    least_s: float
    slow_s: float

    @classmethod
    def of(cls, settings: PlatformSettings) -> "Bounds":
        """A server that is away is waited for first."""
        slow_s = max(settings.stall_slow_s, 2 * settings.patience_s)
        return cls(settings.stall_steps, settings.stall_s, slow_s)


@dataclass(frozen=True)
class Stall:
    """What was found."""

    step: int
    ranks: tuple[int, ...]  # those that are behind, the farthest first
    line: str


@dataclass
class _Seen:
    beat: Beat
    quiet_s: float = 0.0
    paced_s: float = 0.0  # since it has begun a step

    def look(self, beat: Beat, seconds: float) -> None:
        self.quiet_s = 0.0 if beat.notes != self.beat.notes else self.quiet_s + seconds
        self.paced_s += seconds if self.beat.begun else 0.0
        self.beat = beat

    @property
    def usual_s(self) -> float:
        """Of a step, with all that comes between; 0 where there is none to go by."""
        return (self.paced_s - self.quiet_s) / (self.beat.begun - 1) if self.beat.begun > 1 else 0.0

    def bound_s(self, bounds: Bounds) -> float:
        if self.beat.phase in _OF_STEPS and self.beat.begun > 1:
            return max(bounds.least_s, bounds.steps * self.usual_s) + self.beat.patience_s
        return bounds.slow_s + self.beat.patience_s


class Judge:
    """Of one start of a pod's processes on ``node``, looked at again and again."""

    def __init__(self, bounds: Bounds, node: str) -> None:
        self._bounds, self._node = bounds, node
        self._seen: dict[int, _Seen] = {}

    def see(self, beats: Mapping[int, Beat], seconds: float) -> Stall | None:
        """What the processes that live have noted, so many seconds after the last look.

        Who waits for others is not behind. Where all do, those of another pod are, which is left to that pod for twice
        as long as the slowest of phases may take.
        """
        self._seen = {rank: self._seen.get(rank, _Seen(beat)) for rank, beat in beats.items()}
        for rank, beat in beats.items():
            self._seen[rank].look(beat, seconds)
        if not self._bounds.steps or not beats:
            return None
        busy = {rank: seen for rank, seen in self._seen.items() if seen.beat.phase != _WAITS}
        if not busy:
            quiet_s = min(seen.quiet_s for seen in self._seen.values())
            return self._stall(sorted(beats), "") if quiet_s > 2 * self._bounds.slow_s else None
        late = [rank for rank, seen in busy.items() if seen.quiet_s > seen.bound_s(self._bounds)]
        late.sort(key=lambda rank: (busy[rank].beat.step, -busy[rank].quiet_s))
        waiting = len(self._seen) - len(busy)
        return self._stall(late, f"; {waiting} others of the pod wait for it" if waiting else "") if late else None

    def _stall(self, ranks: list[int], others: str) -> Stall:
        first = self._seen[ranks[0]]
        usual = f" where a step takes {first.usual_s:.3g} s" if first.usual_s else ""
        more = f" (and so do {', '.join(map(str, ranks[1:]))})" if ranks[1:] else ""
        if first.beat.phase == _WAITS:
            others = "; all of this pod wait for the processes of another, or for each other"
        line = (
            f"rank {ranks[0]} on {self._node} stands still{more}: in step {first.beat.step}, {first.beat.phase}, "
            f"for {first.quiet_s:.0f} s{usual}{others}"
        )
        return Stall(first.beat.step, tuple(ranks), line)
