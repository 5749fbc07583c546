"""List files: one video a line, with its label or without, in the dialects that people and spreadsheets write."""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from everest.errors import UsageError
from everest.program import printable

_SEPARATORS = (",", ";", "\t")
#: Most lines: neither quotes nor separators in the path, no blanks, separators or dots in the label.
_PLAIN = re.compile(r"""([^,;\t"]*[^\s,;"])[ ,;\t]([^\s,;".]+)""")
_REST = re.compile(r"\s*[,;\t]\s*(?P<field>.*)|\s+(?P<word>.*)")
_LABELLED = re.compile(r"(?P<path>.*\S)\s+(?P<label>-?\d+)", re.ASCII)
_PATH_TITLES = {"path", "file", "filename", "file_name", "filepath", "file_path", "video", "video_path", "clip", "name"}
_LABEL_TITLES = {"label", "labels", "class", "class_name", "category", "target", "id", "label_id", "class_id"}
_AT_ONCE = 1 << 20  # bytes


class Row(NamedTuple):
    number: int  # of the line, from 1
    path: str
    label: str | None


def read_rows(file: Path, suffixes: frozenset[str]) -> Iterator[Row]:
    """The lines ``path label``, or ``path,label``, ``path;label``, ``path<tab>label`` with CSV's quotes, or ``path``.

    A path ends with a video's suffix where it has one, so that it may hold blanks and separators itself. A first
    line of titles is passed over. Raises UsageError.
    """
    ending = "|".join(re.escape(suffix) for suffix in sorted(suffixes))
    suffix = re.compile(rf"(?:{ending})(?=[\s,;]|\Z)", re.IGNORECASE)
    may_be_titles = True
    for number, line in enumerate(read_lines(file), start=1):
        text = line.strip()
        if not text:
            continue
        plain = _PLAIN.fullmatch(text)
        if plain and os.path.splitext(plain[1])[1].lower() in suffixes:
            path, label = plain.groups()
        else:
            path, label = _split(text, suffix)
            if may_be_titles and _is_title(file, number, path, label, text):
                continue
        may_be_titles = False
        yield Row(number, path, label)


def read_lines(file: Path) -> Iterator[str]:
    """Of a text in UTF-8, with or without its mark; other bytes stay what they are, as in names of files.

    Raises UsageError where it is not text.
    """
    _require_text(file)
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            yield line.removesuffix("\n")


def _require_text(file: Path) -> None:
    with file.open("rb") as stream:
        content = stream.read(_AT_ONCE)
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UsageError(f"{file} is not text in UTF-8 but, by its first bytes, in UTF-16; save it as UTF-8")
        while content:
            if b"\0" in content:
                raise UsageError(f"{file} is no list of videos: it is not text in UTF-8")
            content = stream.read(_AT_ONCE)


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


def _split(text: str, suffix: re.Pattern[str]) -> tuple[str, str | None]:
    if text.startswith('"'):
        separator = next((mark for mark in _SEPARATORS if f'"{mark}' in text), ",")
        fields = next(csv.reader([text], delimiter=separator, skipinitialspace=True))
        return fields[0], separator.join(fields[1:]).strip() if len(fields) > 1 else None
    if ends := [found.end() for found in suffix.finditer(text)]:
        path, rest = text[: ends[-1]], _REST.fullmatch(text, ends[-1])
        return path, _unquoted((rest["word"] if rest["field"] is None else rest["field"]).strip()) if rest else None
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
