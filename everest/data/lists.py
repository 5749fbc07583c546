"""List files: one video a line, with its label or without, in the dialects that people and spreadsheets write."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from everest.errors import UsageError
from everest.program import printable

_SEPARATORS = (",", ";", "\t")
_LABELLED = re.compile(r"(?P<path>.*\S)\s+(?P<label>-?\d+)", re.ASCII)
_PATH_TITLES = {"path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "clip", "name"}
_LABEL_TITLES = {"label", "labels", "class", "class_name", "category", "target", "id", "label_id", "class_id"}


class Row(NamedTuple):
    number: int  # of the line, from 1
    path: str
    label: str | None


def read_rows(file: Path, suffixes: frozenset[str]) -> list[Row]:
    """The lines ``path label``, or ``path,label``, ``path;label``, ``path<tab>label`` with CSV's quotes, or ``path``.

    A path ends with a video's suffix where it has one, so that it may hold blanks and separators itself. A first
    line of titles is passed over. Raises UsageError.
    """
    ending = "|".join(re.escape(suffix) for suffix in sorted(suffixes))
    with_suffix = re.compile(rf"(?P<path>.*(?:{ending}))(?:\s*[,;\t]\s*(?P<field>.*)|\s+(?P<word>.*))?", re.IGNORECASE)
    rows: list[Row] = []
    for number, line in enumerate(read_lines(file), start=1):
        text = line.strip()
        if not text:
            continue
        path, label = _split(text, with_suffix)
        if not rows and _is_title(file, number, path, label, text):
            continue
        rows.append(Row(number, path, label))
    return rows


def read_lines(file: Path) -> list[str]:
    """Of a text in UTF-8, with or without its mark; other bytes stay what they are, as in names of files.

    Raises UsageError where it is not text.
    """
    content = file.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{file} is not text in UTF-8 but, by its first bytes, in UTF-16; save it as UTF-8")
    if b"\0" in content:
        raise UsageError(f"{file} is no list of videos: it is not text in UTF-8")
    return re.split("\r\n|\n|\r", content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape"))


def read_names(file: Path) -> tuple[str, ...]:
    """One name of a class a line. Raises UsageError for a blank line between them, and for a name given twice."""
    names = [printable(line.strip()) for line in read_lines(file)]
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, start=1):
        if not name:
            raise UsageError(f"{file} line {number} is blank; the classes after it would be counted wrongly")
        if name in names[: number - 1]:
            raise UsageError(f"{file} line {number}: {name!r} is also line {names.index(name) + 1}")
    return tuple(names)


def _split(text: str, with_suffix: re.Pattern[str]) -> tuple[str, str | None]:
    if text.startswith('"'):
        separator = next((mark for mark in _SEPARATORS if f'"{mark}' in text), ",")
        fields = next(csv.reader([text], delimiter=separator, skipinitialspace=True))
        return fields[0], separator.join(fields[1:]).strip() if len(fields) > 1 else None
    if found := with_suffix.fullmatch(text):
        label = found["word"] if found["field"] is None else found["field"]
        return found["path"].rstrip(), None if label is None else _unquoted(label.strip())
    for separator in _SEPARATORS:
        path, mark, label = text.rpartition(separator)
        if mark and path.strip():
            return path.strip(), _unquoted(label.strip())
    found = _LABELLED.fullmatch(text)
    return (found["path"], found["label"]) if found else (text, None)


def _unquoted(label: str) -> str:
    return next(csv.reader([label]))[0] if label.startswith('"') else label


def _is_title(file: Path, number: int, path: str, label: str | None, text: str) -> bool:
    words = path.lower().split() if label is None else [path.lower(), label.lower()]
    if not words or not set(words) <= _PATH_TITLES | _LABEL_TITLES:
        return False
    if words[0] in _PATH_TITLES and (len(words) == 1 or (len(words) == 2 and words[1] in _LABEL_TITLES)):
        return True
    raise UsageError(f"{file} line {number}: the columns are {text!r}; a list has the path first, then the label")
