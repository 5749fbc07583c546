"""What the annotation files of a set say, whatever their format."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from everest.errors import UsageError

Row = TypeVar("Row")


class Entry(NamedTuple):
    """A video that an annotation file lists, or a window of one."""

    stem: str  # its file's name without a suffix: copies are often of another format
    label: int | None
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None is the video's end


@dataclass
class Listed:
    """What becomes one list."""

    entries: list[Entry] = field(default_factory=list)
    unlabelled: int = 0  # left out: its annotation gives no label


@dataclass(frozen=True)
class Annotations:
    classes: tuple[str, ...]
    lists: dict[str, Listed]  # train, val and, where there is one, test


def first_file(root: Path, *names: str) -> Path:
    """The first of these that is there. Raises UsageError that says what was looked for, and where."""
    if found := optional_file(root, *names):
        return found
    raise UsageError(f"no {os.path.basename(names[0])} in {root}; looked for {', '.join(names)}")


def optional_file(root: Path, *names: str) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def read_json(file: Path) -> Any:
    """Raises UsageError."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise UsageError(f"{file} is no JSON: {error}") from None


def parse_rows(file: Path, rows: TypeAdapter[list[Row]], content: Any) -> list[Row]:
    """A file's list of objects. Raises UsageError that says which of them, counted from 1, lacks what."""
    if not isinstance(content, list):
        raise UsageError(f"{file} has no list of videos but {type(content).__name__}")
    try:
        return rows.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        number, *where = first["loc"]
        name = ".".join(str(part) for part in where)
        raise UsageError(f"{file} entry {int(number) + 1}: {name}: {first['msg']}") from None
