"""The videos that are there, however a copy of a set is laid out: in one folder, one a class, or several."""

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from everest.data.folders import videos_below
from everest.data.index import SUFFIXES
from everest.errors import UsageError


class Copies:
    """All below ``root``, looked up by name. ``spelled`` of two names is the same where they are the same."""

    def __init__(self, root: Path, classes: tuple[str, ...], spelled: Callable[[str], str]) -> None:
        self.root, self._spelled, self._classes = root, spelled, {spelled(name) for name in classes}
        self._paths: defaultdict[str, list[str]] = defaultdict(list)
        for path in videos_below(root, SUFFIXES):
            self._paths[spelled(os.path.splitext(os.path.basename(path))[0])].append(path)

    def __len__(self) -> int:
        return sum(map(len, self._paths.values()))

    def find(self, stem: str, class_name: str | None) -> str | None:
        """The path, from the root, of the video of that name; what lies in another class's folder is another.

        Raises UsageError where there are several.
        """
        there = self._paths.get(self._spelled(stem), [])
        own = [path for path in there if class_name and self._folder(path) == self._spelled(class_name)]
        if not own and class_name:
            own = [path for path in there if self._folder(path) not in self._classes]
        found = own or ([] if class_name else there)
        if len({os.path.realpath(self.root / path) for path in found}) > 1:
            raise UsageError(
                f"{self.root} has {stem} more than once, {found[0]} and {found[1]}; choose with --videos FOLDER"
            )
        return found[0] if found else None

    def _folder(self, path: str) -> str:
        return self._spelled(os.path.basename(os.path.dirname(path)))
