"""One process that is slower than the others, all of which wait for it: said, with its machine."""

import logging
from collections.abc import Sequence
from statistics import median_low
from typing import NamedTuple

log = logging.getLogger(__name__)

_SLOW, _LONG_S = 1.5, 120.0  # times the usual, for so long


class Share(NamedTuple):
    """What a process took of some time, in seconds; the rest it waited for others."""

    waiting_s: float  # for data
    computing_s: float  # forward and backward

    @property
    def own_s(self) -> float:
        return self.waiting_s + self.computing_s


def slowness(shares: Sequence[Share]) -> float:
    """How many times as long as the median the slowest process takes."""
    return max(share.own_s for share in shares) / max(median_low(share.own_s for share in shares), 1e-9)


class Stragglers:
    """Says once that a process has been the slow one for minutes; and once more if that was over in between."""

    def __init__(self, nodes: Sequence[str]) -> None:
        """``nodes`` by rank."""
        self._nodes = nodes
        self._slowest: int | None = None
        self._for_s, self._said = 0.0, False

    def see(self, shares: Sequence[Share], seconds: float) -> None:
        """The shares of the last so many seconds, by rank."""
        slowest = max(range(len(shares)), key=lambda rank: shares[rank].own_s)
        times = slowness(shares)
        if times <= _SLOW or slowest != self._slowest:
            self._slowest, self._for_s, self._said = slowest, 0.0, False
        if times > _SLOW:
            self._for_s += seconds
        if self._for_s >= _LONG_S and not self._said:
            self._said = True
            ours, usual = shares[slowest], [median_low(each) for each in zip(*shares, strict=True)]
            data = ours.waiting_s - usual[0] > ours.computing_s - usual[1]
            log.warning(
                "rank %d on %s slows down all %d processes: for %.0f s its steps have taken %.1f times as long as "
                "theirs, %s; its node may be sick, or not its alone",
                slowest, self._nodes[slowest], len(shares), self._for_s, times,
                "by waiting for data" if data else "by computing",
            )  # fmt: skip
