"""Which videos there are: a list file, a folder of videos, or a folder per class."""

import logging
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Self

import numpy as np
from typing_extensions import TypeVar

from everest.data.files import Gathering, VideoFile, VideoFiles, Window, window_name
from everest.data.folders import folders_in, videos_below, videos_in
from everest.data.lines import read_names
from everest.data.lists import read_rows
from everest.data.packed.manifest import is_packed, read_manifest
from everest.data.packed.place import place_at
from everest.data.packed.videos import PackedVideos
from everest.data.video import Videos
from everest.errors import UsageError
from everest.program import printable

__all__ = ["VideoFile", "VideoIndex", "read_index"]

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


Videos_co = TypeVar("Videos_co", bound=Videos, covariant=True, default=Videos)


@dataclass(frozen=True)
class VideoIndex(Generic[Videos_co]):
    """Videos in a fixed order, and the names of their classes (none where they have no labels)."""

    source: str | Path
    videos: Videos_co
    classes: tuple[str, ...]

    def digest(self) -> str:
        """Tells one index from another."""
        return self.videos.digest(Path(self.source).parent, self.classes)

    def require_labels(self) -> None:
        if not self.classes:
            raise UsageError(
                f"{self.source} has no labels; a list has lines 'path label', a folder one folder per class"
            )

    def with_classes(self, classes: tuple[str, ...]) -> Self:
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
        labels = self.videos.labels
        used = np.unique(labels[labels >= 0]).tolist()
        if unknown := [self.classes[label] for label in used if self.classes[label] not in numbers]:
            raise UsageError(
                f"{self.source} has {_some(unknown)}, which training does not have; its classes are {_some(classes)}"
            )
        of_label = np.array([numbers.get(name, -1) for name in self.classes] + [-1])  # none is the last
        return replace(self, videos=self.videos.with_labels(of_label[labels]), classes=classes)


def read_index(source: str | Path, root: Path | None = None) -> VideoIndex:
    """Reads what ``read_files`` does, or a packed set, also by its address.

    Raises UsageError, EverestError where a packed set is not as it was packed.
    """
    return read_packed(source) if is_packed(source) else read_files(Path(source), root)


def read_packed(source: str | Path) -> VideoIndex[PackedVideos]:
    """Raises UsageError where there is no finished set, EverestError where it is not as it was packed."""
    place = place_at(source)
    manifest = read_manifest(place)
    return VideoIndex(place.address, PackedVideos.open(place, manifest), manifest.classes)


def read_files(source: Path, root: Path | None = None) -> VideoIndex[VideoFiles]:
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


def _read_folder(folder: Path) -> VideoIndex[VideoFiles]:
    gathered = Gathering(folder)
    classes: list[str] = []
    empty: list[str] = []
    names, videos = folders_in(folder), videos_in(folder, SUFFIXES)
    if videos:
        if beside := [name for name in names if next(videos_below(folder / name, SUFFIXES), None)]:
            raise UsageError(
                f"{folder} has videos ({videos[0]} …) beside folders of videos ({_some(map(printable, beside))}): "
                f"give a folder of videos, or one with a folder per class and nothing else"
            )
        for video in videos:
            gathered.add(video, None)
        return VideoIndex(folder, gathered.videos(), ())
    for name in names:
        before = len(gathered)
        for video in videos_below(folder / name, SUFFIXES):
            gathered.add(f"{name}/{video}", len(classes))
        (classes if len(gathered) > before else empty).append(printable(name))
    if empty:
        log.warning("%s: no videos in %s; no class", folder, _some(empty))
    return VideoIndex(folder, gathered.videos(), tuple(classes))


def _read_list(file: Path, root: Path) -> VideoIndex[VideoFiles]:
    gathered, first = Gathering(root), None
    texts: dict[str, int] = {}  # of labels, numbered as they come
    lines = array("i")
    for row in read_rows(file, SUFFIXES):
        first = first or row
        if (row.label is None) != (first.label is None):
            has = "no" if row.label is None else "a"
            raise UsageError(f"{file} line {row.number}: {row.path!r} has {has} label, unlike line {first.number}")
        gathered.add(
            row.path, None if row.label is None else texts.setdefault(row.label, len(texts)), row.start, row.end
        )
        lines.append(row.number)
    videos = gathered.videos()
    if not texts:
        return VideoIndex(file, videos, ())
    begun = np.unique(videos.labels, return_index=True)[1]  # where each text is for the first time
    labels, classes = _labels(file, [(lines[at], text) for at, text in zip(begun, texts, strict=True)])
    labelled = videos.with_labels(np.array(labels)[videos.labels])
    _refuse_two_labels(file, labelled, lines, [*texts], videos.labels)
    return VideoIndex(file, labelled, classes)


def _labels(file: Path, rows: list[tuple[int, str]]) -> tuple[list[int], tuple[str, ...]]:
    """The label of each text in a list, given with the first line that has it, and the names of the classes.

    These are those of ``classes.txt``, of the list, or numbers.
    """
    named = file.parent / "classes.txt"
    names = read_names(named) if named.is_file() else ()
    texts = [printable(text) for _, text in rows]
    numbers = [bool(_NUMBER.fullmatch(text)) for text in texts]
    if all(numbers):
        labels = [int(text) for text in texts]
        if max(labels) > _MOST_CLASSES:
            line, text = rows[labels.index(max(labels))]
            raise UsageError(f"{file} line {line}: {text} is too large for the number of a class")
        if names and max(labels) >= len(names):
            hint = "; labels count from 0, and these may count from 1" if min(labels) == 1 else ""
            raise UsageError(f"{named} names {len(names)} classes, but {file} has label {max(labels)}{hint}")
        return labels, names or tuple(str(label) for label in range(max(labels) + 1))
    known = names or tuple(sorted(set(texts)))
    for (line, _), text, is_number in zip(rows, texts, numbers, strict=True):
        where = f"{file} line {line}: label {text!r}"
        if re.fullmatch(r"-\d+", text, re.ASCII):
            raise UsageError(f"{file} line {line}: label {text} is negative; classes count from 0")
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


def _refuse_two_labels(
    file: Path, videos: VideoFiles, lines: Sequence[int], texts: Sequence[str], text_of: np.ndarray
) -> None:
    """However the path is spelled. ``lines`` and ``text_of`` (which of ``texts`` the label is) of each video."""
    first: dict[tuple[str, Window], int] = {}
    for at in videos.repeated(os.path.normpath, videos.labels):
        window = videos.window(at)
        before = first.setdefault((os.path.normpath(videos[at].path), window), at)
        if videos.labels[before] != videos.labels[at]:
            raise UsageError(
                f"{file} line {lines[at]}: {videos.listed(at)!r}{window_name(*window)} has label {texts[text_of[at]]}, "
                f"and {texts[text_of[before]]} in line {lines[before]}"
            )


def _some(names: Iterable[str]) -> str:
    """The first few of them."""
    first, *rest = list(names)
    shown = [first, *rest[:4]]
    return ", ".join(map(repr, shown)) + (f" … ({1 + len(rest)})" if len(rest) > 4 else "")
