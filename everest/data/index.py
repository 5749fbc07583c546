"""Which videos there are: a list file, a folder of videos, or a folder per class."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from everest.errors import UsageError

SUFFIXES = frozenset(
    [".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv"]
)

_LINE = re.compile(r"(?P<path>.+?)(?:\s*,\s*|\s+)(?P<label>-?\d+)")


class Video(NamedTuple):
    path: Path
    label: int | None


@dataclass(frozen=True)
class VideoIndex:
    """Videos in a fixed order, and the names of their classes (none where they have no labels)."""

    source: Path
    videos: tuple[Video, ...]
    classes: tuple[str, ...]

    def digest(self) -> str:
        """Tells one index from another: a hash of paths and labels."""
        lines = "\n".join(f"{video.path.name} {video.label}" for video in self.videos)
        return sha256(lines.encode()).hexdigest()[:16]

    def require_labels(self) -> None:
        if not self.classes:
            raise UsageError(
                f"{self.source} has no labels; a list has lines 'path label', a folder one folder per class"
            )


def read_index(source: Path, root: Path | None = None) -> VideoIndex:
    """Reads a list file (``path label`` or ``path,label`` or ``path``), a folder of videos, or a folder per class.

    Relative paths of a list start from ``root``, by default the list's own folder. A ``classes.txt`` beside a
    list names its classes, one a line. Raises UsageError where there is nothing to read.
    """
    if source.is_dir():
        index = _read_folder(source)
    elif source.is_file():
        index = _read_list(source, root or source.parent)
    else:
        raise UsageError(f"{source} does not exist; give a list file or a folder of videos")
    if not index.videos:
        raise UsageError(f"{source} has no videos ({' '.join(sorted(SUFFIXES))})")
    return index


def _read_folder(folder: Path) -> VideoIndex:
    if videos := _videos(folder.iterdir()):
        return VideoIndex(folder, tuple(Video(path, None) for path in videos), ())
    by_class = {child.name: _videos(child.rglob("*")) for child in sorted(folder.iterdir()) if child.is_dir()}
    classes = tuple(name for name, paths in by_class.items() if paths)
    labelled = (Video(path, label) for label, name in enumerate(classes) for path in by_class[name])
    return VideoIndex(folder, tuple(labelled), classes)


def _videos(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _read_list(file: Path, root: Path) -> VideoIndex:
    videos: list[Video] = []
    try:
        lines = file.read_text().splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{file} is no list of videos: it is not text") from None
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        labelled = _LINE.fullmatch(text)
        path, label = (labelled["path"], int(labelled["label"])) if labelled else (text, None)
        if label is not None and label < 0:
            raise UsageError(f"{file} line {number}: label {label} is negative; classes count from 0")
        if videos and (label is None) != (videos[0].label is None):
            raise UsageError(
                f"{file} line {number}: {text!r} has {'no' if label is None else 'a'} label, unlike line 1"
            )
        videos.append(Video(root / path, label))
    return VideoIndex(file, tuple(videos), _class_names(file, videos))


def _class_names(file: Path, videos: list[Video]) -> tuple[str, ...]:
    count = 1 + max((video.label for video in videos if video.label is not None), default=-1)
    named = file.parent / "classes.txt"
    if not count or not named.is_file():
        return tuple(str(label) for label in range(count))
    names = tuple(name.strip() for name in named.read_text().splitlines() if name.strip())
    if len(names) < count:
        raise UsageError(f"{named} names {len(names)} classes, but {file} has label {count - 1}")
    return names
