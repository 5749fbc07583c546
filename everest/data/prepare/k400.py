"""Kinetics-400 (Kay et al., 2017): CSV files for training, validation and test, videos ``<id>_000010_000020.mp4``.

The id is YouTube's, which may begin with ``-`` or ``_``; the numbers are the clip's seconds in YouTube's video.
Classes are counted in alphabetical order.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from everest.data.lines import read_lines
from everest.data.prepare.annotations import Annotations, Entry, Listed, first_file, optional_file
from everest.errors import UsageError

_PLACES = ("annotations/{}.csv", "kinetics400/{}.csv", "{}.csv", "kinetics-400_{}.csv", "kinetics_{}.csv")
_COLUMNS = ("youtube_id", "time_start", "time_end")  # and label; split and is_cc are not needed


def read(root: Path, split: int) -> Annotations:
    """Raises UsageError for what is missing, and for a line that lacks something."""
    parts = {"train": first_file(root, *_named("train")), "val": first_file(root, *_named("val", "validate"))}
    if test := optional_file(root, *_named("test")):
        parts["test"] = test
    rows = {name: [*_rows(file)] for name, file in parts.items()}
    classes = tuple(sorted({label for _, label in rows["train"]} - {""}))
    labels = {name: number for number, name in enumerate(classes)}
    return Annotations(classes, {name: _listed(parts[name], rows[name], labels, name == "test") for name in parts})


def _named(*parts: str) -> list[str]:
    return [place.format(part) for part in parts for place in _PLACES]


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    """Stem and label, "" for none, of each line."""
    table = csv.DictReader(read_lines(file))
    titles = table.fieldnames or ()
    if lacking := [column for column in _COLUMNS if column not in titles]:
        raise UsageError(f"{file} has no column {lacking[0]!r}; its first line is {','.join(titles)!r}")
    for row in table:
        where = f"{file} line {table.line_num}"
        youtube, start, end = (row[column] or "" for column in _COLUMNS)
        yield f"{youtube}_{_whole(where, start):06d}_{_whole(where, end):06d}", row.get("label") or ""


def _whole(where: str, text: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if seconds < 0 or not seconds.is_integer():
        raise UsageError(f"{where}: {text!r} is no whole number of seconds")
    return int(seconds)


def _listed(file: Path, rows: list[tuple[str, str]], labels: dict[str, int], test: bool) -> Listed:
    """All with labels; those for testing may all have none."""
    if test and not any(label for _, label in rows):
        return Listed([Entry(stem, None) for stem, _ in rows])
    for stem, label in rows:
        if label not in labels:
            raise UsageError(f"{file}: {stem} has label {label!r}, which the training videos do not have")
    return Listed([Entry(stem, labels[label]) for stem, label in rows])
