"""List files: one video a line, with its label or without, in the dialects that people and spreadsheets write."""

import csv
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from everest.data.lines import read_lines
from everest.errors import UsageError

_SEPARATORS = (",", ";", "\t")
#: Most lines: neither quotes nor separators in the path, no blanks, separators or dots in the label.
_PLAIN = re.compile(r"""([^,;\t"]*[^\s,;"])[ ,;\t]([^\s,;".]+)""")
_QUOTED = re.compile(r'"(?P<path>(?:[^"]|"")*)"(?=[\s,;]|\Z)')
_REST = re.compile(r"[^\S\t]*(?P<separator>[,;\t])(?P<fields>.*)|\s+(?P<words>.*)")
_LABELLED = re.compile(r"(?P<path>.*\S)\s+(?P<label>-?\d+)", re.ASCII)
_WHOLE = re.compile(r"-?\d+", re.ASCII)
#: What is meant as a time, right or wrong.
_LIKE_TIME = re.compile(r"[+-]?([\d.,:]+(e[+-]?\d+)?\s*s?|nan|inf|infinity)", re.ASCII | re.IGNORECASE)

_TITLES = {
    "path": "path file filename file_name filepath file_path video video_path clip name",
    "label": "label labels class class_name category target id label_id class_id",
    "start": "start start_s start_sec start_secs start_seconds start_time time_start t_start begin begin_time",
    "end": "end end_s end_sec end_secs end_seconds end_time time_end t_end stop stop_time",
}
_COLUMN_OF = {title: column for column, titles in _TITLES.items() for title in titles.split()}


_USUAL = ("path", "label", "start", "end")


class Row(NamedTuple):
    number: int  # of the line, from 1
    path: str
    label: str | None
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None is the video's end


class _Line(NamedTuple):
    path: str
    label: str | None  # all that follows the path
    fields: list[str]  # the same, one by one


def read_rows(file: Path, suffixes: frozenset[str]) -> Iterator[Row]:
    """The lines ``path label``, or ``path,label``, ``path;label``, ``path<tab>label`` with CSV's quotes, or ``path``.

    A part of a video has two fields more, ``path,label,start,end``, in seconds; between blanks only where all three
    are numbers. A path ends with a video's suffix where it has one, so that it may hold blanks and separators itself.
    A first line of titles says which fields there are. Raises UsageError.
    """
    ending = "|".join(re.escape(suffix) for suffix in sorted(suffixes))
    suffix = re.compile(rf"(?:{ending})(?=[\s,;]|\Z)", re.IGNORECASE)
    columns: tuple[str, ...] | None = None  # of titles; none of them where they have no times
    begun = False
    for number, line in enumerate(read_lines(file), start=1):
        text = line.strip()
        if not text:
            continue
        if not begun and (titles := _titles(file, number, text)):
            columns = titles if {"start", "end"} & {*titles} else ()
            continue
        begun = True
        plain = None if columns else _PLAIN.fullmatch(text)
        if plain and os.path.splitext(plain[1])[1].lower() in suffixes:
            yield Row(number, plain[1], plain[2])
            continue
        path, label, fields = _split(text, suffix, columns)
        if columns or (columns is None and _has_times(fields)):
            label, start, end = _by_name(f"{file} line {number}", columns or _USUAL, fields)
            yield Row(number, path, label, start, end)
        else:
            yield Row(number, path, label)


def _split(text: str, suffix: re.Pattern[str], columns: tuple[str, ...] | None) -> _Line:
    if quoted := _QUOTED.match(text):
        path, rest = quoted["path"].replace('""', '"'), _REST.fullmatch(text, quoted.end())
    elif ends := [found.end() for found in suffix.finditer(text)]:
        path, rest = text[: ends[-1]], _REST.fullmatch(text, ends[-1])
    else:
        return _split_anywhere(text, columns)
    if rest is None:
        return _Line(path, None, [])
    if rest["words"] is not None:
        words = rest["words"].split()
        split = columns or (_has_times(words) and _WHOLE.fullmatch(words[0]) and all(map(_LIKE_TIME.fullmatch, words)))
        return _Line(path, _unquoted(rest["words"]), words if split else [rest["words"]])
    fields = _fields(rest["fields"], rest["separator"])
    if columns and rest["separator"] == "\t":  # empty ones at a line's end are not seen
        fields += [""] * (len(columns) - 1 - len(fields))
    return _Line(path, _unquoted(rest["fields"].strip()), fields)


def _split_anywhere(text: str, columns: tuple[str, ...] | None) -> _Line:
    """Without a suffix to tell where the path ends."""
    for separator in _SEPARATORS:
        fields = _fields(text, separator)
        timed = columns or (columns is None and _has_times(fields[1:]))
        if timed and len(fields) == len(columns or _USUAL):
            return _Line(fields[0], None, fields[1:])
        path, mark, label = text.rpartition(separator)
        if mark and path.strip():
            return _Line(path.strip(), _unquoted(label.strip()), [label])
    words = text.split()
    if columns and len(words) == len(columns):
        return _Line(words[0], None, words[1:])
    found = _LABELLED.fullmatch(text)
    return _Line(found["path"], found["label"], [found["label"]]) if found else _Line(text, None, [])


def _fields(text: str, separator: str) -> list[str]:
    quoted = '"' in text
    fields = next(csv.reader([text], delimiter=separator, skipinitialspace=True)) if quoted else text.split(separator)
    return [field.strip() for field in fields]


def _unquoted(label: str) -> str:
    return next(csv.reader([label]))[0] if label.startswith('"') else label


def _has_times(fields: list[str]) -> bool:
    """Whether they are a label, a start and an end, and no name of a class that has separators."""
    if len(fields) != 3:
        return False
    label, *times = fields
    return not label or bool(_WHOLE.fullmatch(label)) or any(not time or _LIKE_TIME.fullmatch(time) for time in times)


def _by_name(where: str, columns: tuple[str, ...], fields: list[str]) -> tuple[str | None, float, float | None]:
    """Label, start and end. Raises UsageError."""
    if len(fields) != len(columns) - 1:
        raise UsageError(f"{where} has {len(fields) + 1} columns, and the titles are {', '.join(columns)}")
    found = dict(zip(columns[1:], fields, strict=True))
    start, end = (_seconds(where, name, found.get(name, "")) for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise UsageError(f"{where}: start {start or 0.0:g} is not before end {end:g}")
    return found.get("label") or None, start or 0.0, end


def _seconds(where: str, name: str, text: str) -> float | None:
    """None where there is none. Raises UsageError."""
    if not text:
        return None
    try:
        seconds = float(text.replace("_", "?"))  # Python's own 1_000
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UsageError(f"{where}: {name} {text!r} is no number of seconds")
    if seconds < 0:
        raise UsageError(f"{where}: {name} {text} is negative; seconds count from the video's begin")
    return seconds


def _titles(file: Path, number: int, text: str) -> tuple[str, ...] | None:
    """Which columns a first line names; None where it is a video. Raises UsageError."""
    separator = next((mark for mark in _SEPARATORS if mark in text), None)
    words = _fields(text, separator) if separator else text.split()
    columns = [_COLUMN_OF.get(re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")) for word in words]
    named = tuple(column for column in columns if column)
    if len(named) < len(columns):
        if separator and len(named) > 1:
            word = words[columns.index(None)]
            raise UsageError(f"{file} line {number}: column {word!r} is unknown; a list has path, label, start and end")
        return None
    if named[0] == "path" and len(set(named)) == len(named):
        return named
    raise UsageError(f"{file} line {number}: the columns are {text!r}; a list has the path first, then the label")
