"""Removes what was decided of a run, in an order that may be broken off anywhere: typed again, the command goes on."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from everest.errors import EverestError
from orchestration.code import ARCHIVES
from orchestration.gc.facts import Kept, Shelf
from orchestration.gc.files import leaving
from orchestration.gc.rules import Part, Verdict
from orchestration.s3 import Entry


def remove(shelf: Shelf, verdict: Verdict) -> str:
    """Returns why it was left alone after all; empty: it is gone. Raises EverestError where a server refuses.

    Its record in MLflow says first what goes. It goes itself at the end, since what is left is found by it.
    """
    kept = shelf.runs[verdict.run.name]
    if why := shelf.changed(verdict.run.name):
        return why
    for record in kept.records:
        shelf.records.mark(record, f"{', '.join(verdict.parts)} on {datetime.now(UTC):%Y-%m-%d}: {verdict.why}")
    for part in verdict.parts:
        _remove(shelf, kept, part)
    return ""


def remove_code(shelf: Shelf, archives: Iterable[Entry]) -> int:
    """How many went: those that have not been sent anew meanwhile. Raises EverestError where a server refuses."""
    still = set(archives) & set(shelf.unused_code())
    _delete(shelf, ARCHIVES, sorted(entry.key for entry in still))
    return len(still)


def _remove(shelf: Shelf, kept: Kept, part: Part) -> None:
    if part == "artifacts":
        for record in kept.records:
            shelf.records.remove_artifacts(record)
    else:
        _delete(shelf, kept.run.name, leaving((file.key for file in kept.files), part))
    if part == "runs":
        for record in kept.records:
            shelf.records.remove(record)


def _delete(shelf: Shelf, folder: str, keys: Sequence[str]) -> None:
    for key in keys:
        try:
            shelf.store.delete(f"{folder}/{key}")
        except OSError as error:
            raise EverestError(f"{shelf.store.address}{folder}/{key} was not removed: {error}") from None
