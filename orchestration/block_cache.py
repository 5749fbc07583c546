"""Pieces of remote files on a local disk, shared by the processes of a machine, within a limit."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from everest.files import locked, whole_file

_USED, _LOCK = ".used", ".lock"
_KEPT = 0.9  # of the limit, when room has to be made


class BlockCache:
    """Blocks by name. What is read is not checked: who wrote it knows its sums.

    The size is counted before a block is written, under a lock, so that the limit holds whenever a process ends;
    the blocks that were used longest ago make room.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def open(self, name: str) -> int | None:
        """A file descriptor to read a block from; None where it is not here."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with suppress(OSError):
            os.utime(descriptor)
        return descriptor

    def put(self, blocks: Mapping[str, bytes | memoryview]) -> None:
        """Keeps blocks by name, where there is room for them at all."""
        size = sum(len(content) for content in blocks.values())
        with locked(self.folder / _LOCK):
            used = self._used() + size
            if used > self.limit:
                used = self._remove_oldest(int(self.limit * _KEPT) - size) + size
            if used > self.limit:
                return
            (self.folder / _USED).write_bytes(b"%020d" % used)
            for name, content in blocks.items():
                with whole_file(self.folder / name, sync=False) as written:
                    written.write_bytes(content)

    def _used(self) -> int:
        try:
            text = (self.folder / _USED).read_bytes()
        except FileNotFoundError:
            text = b""
        return int(text) if len(text) == 20 else sum(size for _, size, _ in self._blocks())

    def _remove_oldest(self, goal: int) -> int:
        """Until no more than ``goal`` bytes are left. Returns how many there are."""
        blocks = sorted(self._blocks())
        left = sum(size for _, size, _ in blocks)
        for _, size, file in blocks:
            if left <= goal:
                break
            file.unlink(missing_ok=True)
            left -= size
        return left

    def _blocks(self) -> Iterator[tuple[float, int, Path]]:
        """When used last, size, and where."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                file = Path(folder) / name
                if name not in {_USED, _LOCK}:
                    with suppress(FileNotFoundError):
                        found = file.stat()
                        yield found.st_mtime, found.st_size, file
