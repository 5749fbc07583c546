"""HMDB51 (Kuehne et al., 2011): ``testTrainMulti_7030_splits`` with ``<class>_test_split1.txt`` for each class.

The videos for testing become ``val``; those that a split does not use are in no list.
"""

import os
import re
from pathlib import Path

from everest.data.lines import read_lines
from everest.data.prepare.annotations import Annotations, Entry, Listed, first_file
from everest.errors import UsageError

_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", "test_train_splits", ".")
_NAME = re.compile(r"(?P<name>.+)_test_split[123]\.txt")
_USE = {"0": None, "1": "train", "2": "val"}


def read(root: Path, split: int) -> Annotations:
    """Raises UsageError for what is missing, and for a line that is none."""
    folder = next((root / name for name in _FOLDERS if _classes(root / name)), None)
    if folder is None:
        raise UsageError(f"no <class>_test_split{split}.txt in {root}; looked in {', '.join(_FOLDERS)}")
    classes = _classes(folder)
    lists = {"train": Listed(), "val": Listed()}
    for label, name in enumerate(classes):
        file = first_file(folder, f"{name}_test_split{split}.txt")
        for line in filter(None, map(str.strip, read_lines(file))):
            video, _, use = line.rpartition(" ")
            if use not in _USE or not video:
                raise UsageError(f"{file}: {line!r} is not a video and 0, 1 or 2")
            if listed := _USE[use]:
                lists[listed].entries.append(Entry(os.path.splitext(video.strip())[0], label))
    return Annotations(classes, lists)


def _classes(folder: Path) -> tuple[str, ...]:
    """Of all splits, in alphabetical order."""
    found = map(_NAME.fullmatch, os.listdir(folder) if folder.is_dir() else ())
    return tuple(sorted({name["name"] for name in found if name}))
