"""Where the files of a set lie: a folder, or what another package reads for an address such as ``s3://bucket/prefix``."""

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from everest.errors import EverestError, UsageError
from everest.files import locked, sha256, whole_file
from everest.plugins import load_plugin

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9]+)://.*")


class Range(NamedTuple):
    """Bytes of a file."""

    offset: int
    length: int


class FileSum(NamedTuple):
    """What tells a file from another."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> Self:
        return cls(file.stat().st_size, sha256(file))


class Place(Protocol):
    """Place by name below one place. Raises EverestError, in one line, where they cannot be had; waits for outages.

    Used from several threads, and sent to other processes.
    """

    @property
    def address(self) -> str:
        """For people."""

    @property
    def patience_s(self) -> float:
        """How long reading may wait for a place that does not answer."""

    @property
    def requests(self) -> int:
        """That reading has sent to another machine, until now, in this process."""

    def names(self, folder: str = "") -> Sequence[str]:
        """Of all files below a folder, in any order; hidden ones are not there."""

    def text(self, name: str) -> str | None:
        """Of a small file, as it is now; None where there is none."""

    def read(self, name: str, ranges: Sequence[Range], again: bool = False) -> list[bytes]:
        """Parts of a file, each as long as asked for; ``again`` from where they truly lie, not from a copy here."""

    def fetch(self, name: str, wanted: FileSum) -> Path:
        """A whole file with that sum, on this machine, that is not to be changed."""

    def copy(self, name: str, file: Path) -> None:
        """To ``file``; where there is none of that name, nothing."""

    def sum(self, name: str) -> FileSum:
        """Of a whole file, from where it truly lies."""

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """A path to write to; what is there at the end gets its name, whole or not at all."""

    def alone(self, what: str) -> AbstractContextManager[object]:
        """Waits until no other process does that here; where all would write the same, it need not."""


def place_at(source: str | Path) -> Place:
    """Raises UsageError for an address that nothing here can read."""
    if found := _ADDRESS.fullmatch(str(source)):
        try:
            opened = load_plugin("places", found["scheme"])
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from None
        place: Place = opened(str(source))
        return place
    return Folder(Path(source))


def is_address(source: str | Path) -> bool:
    return bool(_ADDRESS.fullmatch(str(source)))


class Folder:
    """Place of this machine."""

    patience_s = 0.0
    requests = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def address(self) -> str:
        return str(self.path)

    def names(self, folder: str = "") -> Sequence[str]:
        below = self.path / folder
        found = (file.relative_to(self.path) for file in below.rglob("*") if file.is_file())
        return [str(file) for file in found if not any(part.startswith(".") for part in file.parts)]

    def text(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def read(self, name: str, ranges: Sequence[Range], again: bool = False) -> list[bytes]:
        try:
            descriptor = os.open(self.path / name, os.O_RDONLY)
        except FileNotFoundError:
            raise EverestError(f"{self.path / name} is missing; pack the set again") from None
        try:
            found = [os.pread(descriptor, length, offset) for offset, length in ranges]
        finally:
            os.close(descriptor)
        if any(len(part) < wanted.length for part, wanted in zip(found, ranges, strict=True)):
            raise EverestError(f"{self.path / name} is shorter than when it was packed; pack the set again")
        return found

    def fetch(self, name: str, wanted: FileSum) -> Path:
        file = self.path / name
        if not file.is_file():
            raise EverestError(f"{file} is missing; pack the set again")
        if FileSum.of(file) != wanted:
            raise EverestError(f"{file} is not as it was packed (its SHA-256 differs); pack the set again")
        return file

    def copy(self, name: str, file: Path) -> None:
        if (self.path / name).is_file():
            shutil.copyfile(self.path / name, file)

    def sum(self, name: str) -> FileSum:
        try:
            return FileSum.of(self.path / name)
        except FileNotFoundError:
            raise EverestError(f"{self.path / name} is missing; pack the set again") from None

    def writing(self, name: str) -> AbstractContextManager[Path]:
        return whole_file(self.path / name)

    def alone(self, what: str) -> AbstractContextManager[object]:
        return locked(self.path / f".{what}.lock")
