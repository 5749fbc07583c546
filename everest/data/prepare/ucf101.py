"""UCF101 (Soomro et al., 2012): ``ucfTrainTestlist`` with ``classInd.txt``, ``trainlist01.txt`` and ``testlist01.txt``.

The class is spelled in folders and in files' names with other capitals here and there (HandstandPushups), so
capitals do not count. The test list, which has no labels, becomes ``val``.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from everest.data.lines import read_lines
from everest.data.prepare.annotations import Annotations, Entry, Listed, first_file
from everest.errors import UsageError

_FOLDERS = ("ucfTrainTestlist/", "")


def read(root: Path, split: int) -> Annotations:
    """Raises UsageError for what is missing, and for lists that contradict ``classInd.txt``."""
    classes = _classes(_file(root, "classInd.txt"))
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    lists = {name: f"{part}list{split:02d}.txt" for name, part in (("train", "train"), ("val", "test"))}
    found = {name: Listed([*_entries(_file(root, file), labels)]) for name, file in lists.items()}
    return Annotations(classes, found)


def _file(root: Path, name: str) -> Path:
    return first_file(root, *(f"{folder}{name}" for folder in _FOLDERS))


def _classes(file: Path) -> tuple[str, ...]:
    """Lines ``1 ApplyEyeMakeup``, counted from 1."""
    names: list[str] = []
    for line in filter(None, map(str.strip, read_lines(file))):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name:
            raise UsageError(f"{file}: {line!r} is not class {len(names) + 1} and its name")
        names.append(name)
    return tuple(names)


def _entries(file: Path, labels: dict[str, int]) -> Iterator[Entry]:
    """Lines ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1``, of test lists without the number."""
    for line in filter(None, map(str.strip, read_lines(file))):
        path, _, number = line.partition(" ")
        folder, _, name = path.rpartition("/")
        label = labels.get(folder.casefold())
        if label is None:
            raise UsageError(f"{file}: {path} is of no class of classInd.txt")
        if number and number != str(label + 1):
            raise UsageError(f"{file}: {path} has number {number}, and its class {label + 1} in classInd.txt")
        yield Entry(os.path.splitext(name)[0], label)
