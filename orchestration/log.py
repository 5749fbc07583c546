"""A run's log: what the processes of all its starts say, as lines with their times.

A line is ``2026-11-27T23:43:17.123456Z [rank 3] text``. The times of a pod's lines grow, so that a pod and a time name
a line. A start of a pod begins with a line that no process of it can say, since theirs begin with their rank.
"""

import re
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from typing import NamedTuple

from everest.errors import UsageError

START = "--- start: "
FOLDER = "logs/"  # in S3, below the run

_LINE = re.compile(r"(?:(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) )?((?:\[rank (\d{1,5})\] )?.*)", re.DOTALL)
_KEY = re.compile(FOLDER + r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d\.\d{6}Z)-(\d{5})/(?:rank-(\d{5})|pod)-(\d{6})\.gz")
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Line(NamedTuple):
    moment: str  # when it was said; empty: it does not say
    pod: int
    rank: int | None  # None: what has no rank, as a pod's own troubles
    text: str  # with its rank

    @classmethod
    def parse(cls, raw: str, pod: int) -> "Line":
        moment, text, rank = _LINE.fullmatch(raw).groups()  # type: ignore[union-attr]
        return cls(moment or "", pod, int(rank) if rank else None, text)

    @property
    def begins(self) -> bool:
        return self.rank is None and self.text.startswith(START)


class Piece(NamedTuple):
    """Of what one process, or a pod itself, said since a start of the pod: a file in S3 whose key sorts in order."""

    start: str  # when it was
    pod: int
    rank: int | None
    number: int

    @property
    def key(self) -> str:
        speaker = "pod" if self.rank is None else f"rank-{self.rank:05d}"
        return f"{FOLDER}{re.sub('[-:]', '', self.start)}-{self.pod:05d}/{speaker}-{self.number:06d}.gz"

    @classmethod
    def parse(cls, key: str) -> "Piece | None":
        """None: it is the key of something else."""
        if not (found := _KEY.fullmatch(key)):
            return None
        year, month, day, hour, minute, second, pod, rank, number = found.groups()
        start = f"{year}-{month}-{day}T{hour}:{minute}:{second}"
        return cls(start, int(pod), None if rank is None else int(rank), int(number))


class Starts:
    """Which start of its pod a line belongs to: the first is 1."""

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._moments: dict[int, list[str]] = defaultdict(list)
        for piece in pieces:
            self.add(piece.pod, piece.start)

    def __len__(self) -> int:
        return max(map(len, self._moments.values()), default=0)

    def add(self, pod: int, moment: str) -> None:
        if moment not in self._moments[pod]:
            insort(self._moments[pod], moment)

    def number(self, pod: int, moment: str) -> int:
        return max(1, bisect_right(self._moments[pod], moment))

    def numbered(self, line: Line) -> "Numbered":
        if line.begins:
            self.add(line.pod, line.moment)
        return Numbered(self.number(line.pod, line.moment), line)


class Numbered(NamedTuple):
    """A line and the number of its start."""

    start: int
    line: Line

    def place(self) -> tuple[str, int]:
        """By which lines are in order."""
        return self.line.moment, self.line.pod

    @property
    def text(self) -> str:
        text = self.line.text
        return text.replace(START, f"--- start {self.start}: ", 1) if self.line.begins else text


@dataclass(frozen=True)
class Wanted:
    """Which lines of a log."""

    rank: int | None = None
    start: int | None = None
    since: str = ""  # a moment

    def __contains__(self, said: Numbered) -> bool:
        line = said.line
        return (
            self.rank in {None, line.rank} and self.start in {None, said.start} and (line.moment or "9") >= self.since
        )

    def require(self, name: str, starts: Starts) -> None:
        """Raises UsageError where there is no such start."""
        if self.start is not None and not 1 <= self.start <= len(starts):
            there = f"the starts 1 to {len(starts)}" if len(starts) > 1 else f"{len(starts) or 'no'} start"
            raise UsageError(f"--restart {self.start}: {name} has {there}")


EVERYTHING = Wanted()


def in_order(*sources: Iterable[Numbered]) -> Iterator[Numbered]:
    """Lines of sources that are in order, each line once."""
    before = None
    for said in merge(*sources, key=Numbered.place):
        if said.place() != before or not said.line.moment:
            yield said
        before = said.place()


def stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def span(said: str) -> timedelta | None:
    """What a person means by 90s, 10m, 2h or 3d; None: it is nothing like that."""
    found = _SPAN.fullmatch(said)
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]]) if found else None


def since(said: str) -> str:
    """The moment that a person means by 90s, 10m, 2h, 3d or a time. Raises UsageError."""
    if (ago := span(said)) is not None:
        return stamp(datetime.now(UTC) - ago)
    try:
        return stamp(datetime.fromisoformat(said))  # without a zone: of this machine's
    except ValueError:
        raise UsageError(f"--since {said!r}: must be 90s, 10m, 2h, 3d or a time as 2026-11-27T14:30") from None
