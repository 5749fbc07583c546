"""What of a set is there, as JSON and as lines for a person."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

_SHOWN = 5


@dataclass
class ListReport:
    """Of one list. What is missing is by the annotation's name, the others by their paths and what is wrong."""

    listed: int
    written: int = 0
    missing: list[str] = field(default_factory=list)
    unlabelled: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)


@dataclass
class Report:
    set: str
    split: int | None
    videos: str  # the folder below which they are
    classes: tuple[str, ...]
    checked: bool = False
    lists: dict[str, ListReport] = field(default_factory=dict)
    others: int = 0  # videos below the root that are in no list

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        split = f" split {self.split}" if self.split else ""
        yield f"{self.set}{split}: {len(self.classes)} classes; {self.others} other videos below {self.videos}"
        for name, found in self.lists.items():
            counts = [f"{len(found.missing)} missing"]
            counts += [f"{found.unlabelled} without label left out"] if found.unlabelled else []
            counts += [f"{len(found.broken)} broken, {len(found.odd)} odd but readable"] if self.checked else []
            unwritten = "" if found.written else "; no list is written"
            yield f"{name}.csv: {found.written} of {found.listed} videos, {', '.join(counts)}{unwritten}"
            if found.missing:
                more = f" … ({len(found.missing)})" if len(found.missing) > _SHOWN else ""
                yield f"  missing: {', '.join(found.missing[:_SHOWN])}{more}"
            for path, reason in found.broken.items():
                yield f"  broken: {path}: {reason}"
            for path, remark in found.odd.items():
                yield f"  odd: {path}: {remark}"
