"""Folders of videos: what is in them, and what is not there for anybody."""

import os
from collections.abc import Iterator
from pathlib import Path

from everest.errors import UsageError

#: What systems leave in folders; nor is anything there whose name begins with a dot.
_NOT_THERE = frozenset(["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"])


def children(folder: Path) -> list[Path]:
    """By name. Raises UsageError where the folder cannot be read."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise UsageError(f"folder {folder} cannot be read: {error.strerror}") from None
    return [folder / name for name in sorted(names) if not name.startswith(".") and name not in _NOT_THERE]


def is_folder(path: Path) -> bool:
    """Raises UsageError for a link to nothing that could have been a folder, and for what cannot be looked at."""
    try:
        if path.is_dir():
            return True
        if path.is_symlink() and not path.exists() and not path.suffix:
            raise UsageError(f"{path} links to {path.readlink()}, which does not exist; mend or remove it")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return False


def videos_in(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Those right in it. A link to nothing is one too: unreadable, but not forgotten. Raises UsageError."""
    found = [path for path in children(folder) if path.suffix.lower() in suffixes and not is_folder(path)]
    for path in found:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is named like a video, but is neither a file nor a folder")
    return found


def videos_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Those in it and in all folders below, links followed. Raises UsageError."""
    return sorted(_below(folder, suffixes, ()))


def _below(folder: Path, suffixes: frozenset[str], above: tuple[Path, ...]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        raise UsageError(f"{folder} links to a folder that it is in itself; remove the link")
    yield from videos_in(folder, suffixes)
    for child in children(folder):
        if is_folder(child):
            yield from _below(child, suffixes, (*above, real))
