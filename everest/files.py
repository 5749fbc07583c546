"""Files that are written whole or not at all."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path


@contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary name beside ``path`` to write to; it gets its own name once it is on the disk.

    Without ``sync`` once it is written: enough for what can be had again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with naming(path):
            yield temporary
            publish(temporary, path) if sync else temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the system says of a full or broken disk names no file; here it names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def publish(written: Path, path: Path) -> None:
    """Moves a finished file to its name, on the disk before and after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sync(written)
    written.replace(path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def locked(path: Path, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Holds a lock on the file ``path`` against other processes, while these live; False where another has it.

    ``shared``: with all who hold it so.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
