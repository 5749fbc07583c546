"""Arrays that processes share: sent to another one, the memory is handed over, and nothing is copied.

The memory is that of a file without a name: no limit of /dev/shm applies, and nothing is left behind.
"""

import mmap
import os
import sys
import tempfile
import weakref
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np


class NamelessFile:
    """In memory where the system has that; gone with the last process that has it."""

    def __init__(self, descriptor: int | None = None) -> None:
        """A new one, or that of ``descriptor``, which is its own from now on."""
        self.descriptor = _new() if descriptor is None else descriptor
        weakref.finalize(self, os.close, self.descriptor)

    def write(self, content: bytearray | memoryview) -> None:
        """At its end."""
        left = memoryview(content).cast("B") if len(content) else memoryview(b"")
        while left:
            left = left[os.write(self.descriptor, left) :]


def _new() -> int:
    if sys.platform == "linux":
        return os.memfd_create("everest")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedArray:
    """``values``: the numbers that a file holds, one after the other; nobody can change them."""

    def __init__(self, file: NamelessFile, dtype: str) -> None:
        self._file, self._dtype = file, dtype
        size = os.fstat(file.descriptor).st_size
        memory = mmap.mmap(file.descriptor, size, access=mmap.ACCESS_READ) if size else b""
        self.values: np.ndarray = np.frombuffer(memory, dtype)

    @classmethod
    def of(cls, values: np.ndarray) -> "SharedArray":
        file = NamelessFile()
        file.write(values.data)
        return cls(file, values.dtype.str)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._file.descriptor), self._dtype)


def _received(handle: Any, dtype: str) -> SharedArray:
    return SharedArray(NamelessFile(handle.detach()), dtype)
