"""Lists as ``everest.data.lists`` reads them, whatever characters the names of files have."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from everest.data.files import VideoFile
from everest.data.lines import read_lines
from everest.errors import UsageError
from everest.files import whole_file

_COLUMNS = ("path", "label", "start", "end")


def write_list(file: Path, videos: Sequence[VideoFile]) -> None:
    """A line of titles, then a video a line; labels all have or none, and windows where any has one.

    Paths below the list's folder are written from there, so that the folder can be moved; others as absolute ones.
    Raises UsageError for names that no list can have.
    """
    labelled = videos[0].label is not None
    windows = any(video.window != (0.0, None) for video in videos)
    columns = [name for name, there in zip(_COLUMNS, (True, labelled, windows, windows), strict=True) if there]
    with whole_file(file) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as lines:
        table = csv.DictWriter(lines, columns, extrasaction="ignore", quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        table.writeheader()
        for video in videos:
            path = _path_from(file.parent, video.path)
            table.writerow(dict(zip(_COLUMNS, (path, *video[1:]), strict=True)))


def require_own(file: Path) -> None:
    """Raises UsageError for a file that is there and none of these lists, as an annotation file of the same name."""
    if file.exists() and not next(read_lines(file), "").startswith('"path"'):
        raise UsageError(f"{file} is there and was not written by this command; give another folder for the lists")


def _path_from(folder: Path, path: Path) -> str:
    found, start = os.path.abspath(path), os.path.abspath(folder)
    if "\n" in found or "\r" in found:
        raise UsageError(f"{str(path)!r} has a line break in its name, which no list can have; rename it")
    return os.path.relpath(found, start) if found.startswith(os.path.join(start, "")) else found
