"""The parts of a video in which its kept tokens change most."""

from typing import NamedTuple

import numpy as np

from everest.find.timeline import Timeline


class Interval(NamedTuple):
    """From ``start`` to ``end``, in seconds; ``score``: its share of all that the video's kept tokens change."""

    start: float
    end: float
    score: float


def most_informative(timeline: Timeline, length: float, top: int) -> list[Interval]:
    """At most ``top`` intervals of ``length`` seconds, best first; none overlaps another or is without kept tokens.

    Each is the best of what earlier ones leave. Of several in a row that are as good, the one in the middle: what is
    shorter than an interval is not at its edge.
    """
    length = min(length, timeline.seconds)
    times = timeline.times
    before = np.concatenate([[0], timeline.change.cumsum()])
    sums = before[np.searchsorted(times, times + length - 1e-6)] - before[: len(times)]
    free = times <= max(timeline.seconds - length, times[0]) + 1e-6
    found: list[Interval] = []
    while len(found) < top:
        among = np.where(free, sums, 0)
        best = int(among.argmax())
        if among[best] == 0:
            break
        worse = np.flatnonzero(among[best:] < among[best] * (1 - 1e-9))
        best += int(worse[0] - 1 if len(worse) else len(among) - best - 1) // 2
        start = float(times[best])
        end = min(start + length, timeline.seconds)
        found.append(Interval(start, end, float(sums[best] / before[-1])))
        free &= (times >= end - 1e-6) | (times <= start - length + 1e-6)
    return found
