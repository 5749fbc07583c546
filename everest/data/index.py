"""Which videos there are: a list file, a folder of videos, or a folder per class."""

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from everest.config import DataConfig
from everest.data.decode import cut, decode
from everest.data.folders import children, is_folder, videos_below, videos_in
from everest.data.lists import Row, read_names, read_rows
from everest.data.video import Plan
from everest.errors import UsageError
from everest.program import printable

log = logging.getLogger(__name__)

#: Of moving pictures that PyAV reads. What may as well be a still picture, sound or text is left out (.ogg, .webp).
SUFFIXES = frozenset([
    ".264", ".265", ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avc", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif",
    ".gxf", ".h261", ".h263", ".h264", ".h265", ".hevc", ".ismv", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v",
    ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mpv",
    ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tp", ".trp", ".ts", ".vc1", ".vob",
    ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
])  # fmt: skip

_MOST_CLASSES = 1_000_000
_NUMBER = re.compile(r"\d+", re.ASCII)


class VideoFile(NamedTuple):
    """A Video."""

    path: Path
    label: int | None

    @property
    def name(self) -> str:
        return str(self.path)

    def cut(self, plan: Plan, data: DataConfig) -> Tensor:
        return cut(self.path, plan, data.reader, data.time_limit)

    def frames(self, choose: Callable[[int], np.ndarray], short_side: int, data: DataConfig) -> Tensor:
        return decode(self.path, short_side, choose, data.reader, data.time_limit)


@dataclass(frozen=True)
class VideoIndex:
    """Videos in a fixed order, and the names of their classes (none where they have no labels)."""

    source: Path
    videos: tuple[VideoFile, ...]
    classes: tuple[str, ...]

    def digest(self) -> str:
        """Tells one index from another: a hash of paths (from where the source is), labels and names of classes."""
        start = self.source.parent
        lines = [f"{os.path.relpath(path, start)}\0{label}" for path, label in self.videos]
        return sha256(os.fsencode("\n".join([*lines, *self.classes]))).hexdigest()[:16]

    def require_labels(self) -> None:
        if not self.classes:
            raise UsageError(
                f"{self.source} has no labels; a list has lines 'path label', a folder one folder per class"
            )

    def with_classes(self, classes: tuple[str, ...]) -> "VideoIndex":
        """The same videos with the labels that these classes, of the training, have: by name where they are named.

        Raises UsageError for a class that is not among them.
        """
        named = any(name != str(number) for number, name in enumerate(self.classes))
        if not named:
            if len(self.classes) > len(classes):
                label = len(self.classes) - 1
                raise UsageError(f"{self.source} has label {label}, but there are {len(classes)} classes")
            return replace(self, classes=classes)
        numbers = {name: number for number, name in enumerate(classes)}
        used = sorted({video.label for video in self.videos if video.label is not None})
        if unknown := [self.classes[label] for label in used if self.classes[label] not in numbers]:
            raise UsageError(
                f"{self.source} has {_some(unknown)}, which training does not have; its classes are {_some(classes)}"
            )
        videos = (VideoFile(p, None if label is None else numbers[self.classes[label]]) for p, label in self.videos)
        return VideoIndex(self.source, tuple(videos), classes)


def read_index(source: Path, root: Path | None = None) -> VideoIndex:
    """Reads a list file (see ``lists``), a folder of videos, or a folder per class.

    Relative paths of a list start from ``root``, by default the list's own folder. A ``classes.txt`` beside a
    list names its classes, one a line. Raises UsageError where there is nothing to read, or it contradicts itself.
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
    folders = [child for child in children(folder) if is_folder(child)]
    by_class = {printable(child.name): videos_below(child, SUFFIXES) for child in folders}
    if videos := videos_in(folder, SUFFIXES):
        if beside := [name for name, below in by_class.items() if below]:
            raise UsageError(
                f"{folder} has videos ({videos[0].name} …) beside folders of videos ({_some(beside)}): "
                f"give a folder of videos, or one with a folder per class and nothing else"
            )
        return VideoIndex(folder, tuple(VideoFile(path, None) for path in videos), ())
    if empty := [name for name, below in by_class.items() if not below]:
        log.warning("%s: no videos in %s; no class", folder, _some(empty))
    classes = tuple(name for name, below in by_class.items() if below)
    labelled = (VideoFile(path, label) for label, name in enumerate(classes) for path in by_class[name])
    return VideoIndex(folder, tuple(labelled), classes)


def _read_list(file: Path, root: Path) -> VideoIndex:
    rows = read_rows(file, SUFFIXES)
    for row in rows:
        if (row.label is None) != (rows[0].label is None):
            has = "no" if row.label is None else "a"
            raise UsageError(f"{file} line {row.number}: {row.path!r} has {has} label, unlike line {rows[0].number}")
    if not rows or rows[0].label is None:
        return VideoIndex(file, tuple(VideoFile(root / row.path, None) for row in rows), ())
    labels, classes = _labels(file, rows)
    videos = tuple(VideoFile(root / row.path, label) for row, label in zip(rows, labels, strict=True))
    _refuse_two_labels(file, rows, videos)
    return VideoIndex(file, videos, classes)


def _labels(file: Path, rows: list[Row]) -> tuple[list[int], tuple[str, ...]]:
    """The label of each line, and the names of the classes: of ``classes.txt``, of the list, or numbers."""
    named = file.parent / "classes.txt"
    names = read_names(named) if named.is_file() else ()
    texts = [printable(row.label) for row in rows]
    numbers = [bool(_NUMBER.fullmatch(text)) for text in texts]
    if all(numbers):
        labels = [int(text) for text in texts]
        if max(labels) > _MOST_CLASSES:
            row = rows[labels.index(max(labels))]
            raise UsageError(f"{file} line {row.number}: {row.label} is too large for the number of a class")
        if names and max(labels) >= len(names):
            hint = "; labels count from 0, and these may count from 1" if min(labels) == 1 else ""
            raise UsageError(f"{named} names {len(names)} classes, but {file} has label {max(labels)}{hint}")
        return labels, names or tuple(str(label) for label in range(max(labels) + 1))
    known = names or tuple(sorted(set(texts)))
    for row, text, is_number in zip(rows, texts, numbers, strict=True):
        where = f"{file} line {row.number}: label {text!r}"
        if re.fullmatch(r"-\d+", text, re.ASCII):
            raise UsageError(f"{file} line {row.number}: label {text} is negative; classes count from 0")
        if not text:
            raise UsageError(f"{where} is empty")
        if names and text not in names:
            raise UsageError(f"{where} is neither a number nor a class of {named}")
        if not names and any(numbers) and not is_number:
            raise UsageError(f"{where} is no number, as other lines have it")
        if not names and re.fullmatch(r"[\d\s.,;+-]+", text) and not is_number:
            raise UsageError(f"{where} is no whole number and no name of a class")
    number_of = {name: number for number, name in enumerate(known)}
    return [number_of[text] for text in texts], known


def _refuse_two_labels(file: Path, rows: list[Row], videos: tuple[VideoFile, ...]) -> None:
    """However the path is spelled."""
    first: dict[str, int] = {}
    for at, (path, label) in enumerate(videos):
        before = first.setdefault(os.path.normpath(path), at)
        if videos[before].label != label:
            raise UsageError(
                f"{file} line {rows[at].number}: {rows[at].path!r} has label {rows[at].label}, "
                f"and {rows[before].label} in line {rows[before].number}"
            )


def _some(names: Iterable[str]) -> str:
    """The first few of them."""
    first, *rest = list(names)
    shown = [first, *rest[:4]]
    return ", ".join(map(repr, shown)) + (f" … ({1 + len(rest)})" if len(rest) > 4 else "")
