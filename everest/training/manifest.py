"""What makes a checkpoint whole: its manifest, which names every file with its size and sum; and pointers to some."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everest.files import sha256
from everest.protocols import BEST, LATEST

log = logging.getLogger(__name__)

MANIFEST, MODEL, TRAINING = "manifest.json", "model.safetensors", "training.pt"

CHECKPOINT_KEY = re.compile(r"(step-\d{8}-[0-9a-f]{8})/([\w.-]+)")

_LONGEST = 2**20  # bytes

FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=255)]


class Damaged(ValueError):
    """A checkpoint is not what it should be."""


class Seal(BaseModel):
    """A file's size and sum."""

    model_config = ConfigDict(strict=True, frozen=True)

    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> "Seal":
        return cls(bytes=file.stat().st_size, sha256=sha256(file))


class Manifest(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    step: int
    files: dict[FileName, Seal]

    @classmethod
    def read(cls, file: Path, step: int) -> "Manifest":
        """Raises Damaged where it is none, or not the one of a checkpoint of that step."""
        if file.stat().st_size > _LONGEST:
            raise Damaged(f"its manifest has {file.stat().st_size} bytes")
        try:
            found = cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part)[:100] for part in first["loc"])
            raise Damaged(f"its manifest is malformed ({where!r}: {first['msg']})") from None
        if missing := {MODEL, TRAINING} - set(found.files):
            raise Damaged(f"its manifest names no {' and no '.join(sorted(missing))}")
        if found.step != step:
            raise Damaged(f"its manifest is of step {found.step}")
        return found

    def require(self, file: Path) -> None:
        """Raises Damaged where it is not the one that was saved under its name."""
        if Seal.of(file) != self.files[file.name]:
            raise Damaged(f"{file.name} is not what its manifest says")


class Latest(BaseModel):
    """What the pointer to the newest checkpoint says."""

    checkpoint: str | None = None
    writer: str = ""
    passed_over: list[str] = []  # by it and those before; they are kept for people to look at


class Best(BaseModel):
    checkpoint: str
    metric: str
    value: float


Pointer = TypeVar("Pointer", bound=BaseModel)


def said(kind: type[Pointer], text: str | None) -> Pointer | None:
    """What a pointer says; one that cannot be read says nothing."""
    if text is None:
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        log.warning("%.100r is no %s of a run; it counts as not there", text, kind.__name__.lower())
        return None


def removal_order(keys: Iterable[str]) -> list[str]:
    """Of a run's keys those of its checkpoints, in the order in which all of them go.

    Pointers come first, then the oldest checkpoint, and of each its manifest: wherever that is broken off, what is
    left are whole checkpoints, the newest among them, and nothing names one that is gone.
    """
    there = set(keys)
    found = [match for key in there if (match := CHECKPOINT_KEY.fullmatch(key))]
    found.sort(key=lambda match: (match[1], match[2] != MANIFEST, match[2]))
    return [*(pointer for pointer in (BEST, LATEST) if pointer in there), *(match[0] for match in found)]
