"""Code that was sent along with jobs: which archives in S3 no run and no job refers to any more."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from orchestration.code import archived
from orchestration.s3 import Entry

#: Since it was sent last. Younger ones stay: their job may be on its way, or wait where it is not seen.
QUIET = timedelta(days=30)


def unused(entries: Iterable[Entry], needed: Collection[str], now: datetime) -> Sequence[Entry]:
    """Of what is in the archives' folder; other files there are others'."""
    return [
        entry
        for entry in entries
        if (digest := archived(entry.key)) and digest not in needed and now - entry.modified >= QUIET
    ]
