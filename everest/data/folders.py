"""Folders of videos: what is in them, and what is not there for anybody."""

import os
from collections.abc import Iterator
from pathlib import Path

from everest.errors import UsageError

#: What systems leave in folders; nor is anything there whose name begins with a dot.
_NOT_THERE = frozenset(["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"])


def folders_in(folder: Path) -> list[str]:
    """Names of those right in it, in their order. Raises UsageError where it cannot be read."""
    return [name for name, is_folder in _children(folder, frozenset()) if is_folder]


def videos_in(folder: Path, suffixes: frozenset[str]) -> list[str]:
    """Names of those right in it, in their order. Raises UsageError."""
    return [name for name, is_folder in _children(folder, suffixes) if not is_folder]


def videos_below(folder: Path, suffixes: frozenset[str]) -> Iterator[str]:
    """Paths from there of those in it and in all folders below, in their order, links followed. Raises UsageError."""
    return _below(folder, "", suffixes, ())


def _below(folder: Path, inside: str, suffixes: frozenset[str], above: tuple[Path, ...]) -> Iterator[str]:
    real = folder.resolve()
    if real in above:
        raise UsageError(f"{folder} links to a folder that it is in itself; remove the link")
    for name, is_folder in _children(folder, suffixes):
        if is_folder:
            yield from _below(folder / name, f"{inside}{name}/", suffixes, (*above, real))
        else:
            yield inside + name


def _children(folder: Path, suffixes: frozenset[str]) -> list[tuple[str, bool]]:
    """Names of videos and folders, in their order, and which are folders. Raises UsageError.

    A link to nothing is a video too: unreadable, but not forgotten.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _NOT_THERE:
                    continue
                if _is_folder(entry):
                    found.append((entry.name, True))
                elif os.path.splitext(entry.name)[1].lower() in suffixes:
                    _require_file(entry)
                    found.append((entry.name, False))
    except OSError as error:
        raise UsageError(f"folder {folder} cannot be read: {error.strerror}") from None
    return sorted(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Raises UsageError for a link to nothing that could have been a folder, and for what cannot be looked at."""
    if not entry.is_symlink():
        return entry.is_dir()
    path = Path(entry.path)
    try:
        if not path.exists() and not path.suffix:
            raise UsageError(f"{path} links to {path.readlink()}, which does not exist; mend or remove it")
        return path.is_dir()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _require_file(entry: os.DirEntry[str]) -> None:
    """Unless it is a link to nothing."""
    if not entry.is_file() and not (entry.is_symlink() and not Path(entry.path).exists()):
        raise UsageError(f"{entry.path} is named like a video, but is neither a file nor a folder")
