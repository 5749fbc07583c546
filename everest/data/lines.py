"""Text files that people write, a line at a time: lists of videos, names of classes."""

from collections.abc import Iterator
from pathlib import Path

from everest.errors import UsageError
from everest.program import printable

_AT_ONCE = 1 << 20  # bytes


def read_lines(file: Path) -> Iterator[str]:
    """Of a text in UTF-8, with or without its mark; other bytes stay what they are, as in names of files.

    Raises UsageError where it is not text.
    """
    _require_text(file)
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            yield line.removesuffix("\n")


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


def _require_text(file: Path) -> None:
    with file.open("rb") as stream:
        content = stream.read(_AT_ONCE)
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UsageError(f"{file} is not text in UTF-8 but, by its first bytes, in UTF-16; save it as UTF-8")
        while content:
            if b"\0" in content:
                raise UsageError(f"{file} is no list of videos: it is not text in UTF-8")
            content = stream.read(_AT_ONCE)
