"""Videos that are files: one, and a million of them in little memory."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from everest.config import DataConfig
from everest.data.decode import cut, decode
from everest.data.shared_array import NamelessFile, SharedArray
from everest.data.video import Choice, Plan

if TYPE_CHECKING:
    from torch import Tensor

_NO_LABEL = -1
#: Start and end in seconds; None is the file's end.
Window = tuple[float, float | None]
_WHOLE: Window = (0.0, None)
_AT_ONCE = 10_000  # videos
_PIECE = 1 << 20  # bytes


class VideoFile(NamedTuple):
    """A Video: a file, or a window of it."""

    path: Path
    label: int | None
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None is the file's end

    @property
    def name(self) -> str:
        return f"{self.path}{window_name(*self.window)}"

    @property
    def window(self) -> Window:
        return self.start, self.end

    def cut(self, plan: Plan, data: DataConfig) -> list[Tensor]:
        return list(cut(self.path, plan, data.reader, data.time_limit, *self.window))

    def frames(self, choose: Callable[[int], np.ndarray], short_side: int, data: DataConfig) -> Tensor:
        return decode(self.path, short_side, choose, data.reader, data.time_limit, *self.window)


def window_name(start: float, end: float | None) -> str:
    """``" [8-16 s]"``; nothing for the whole file."""
    if (start, end) == _WHOLE:
        return ""
    return f" [from {_short(start)} s]" if end is None else f" [{_short(start)}-{_short(end)} s]"


def _short(seconds: float) -> str:
    return repr(float(seconds)).removesuffix(".0")


class VideoFiles(Sequence[VideoFile]):
    """Videos in a fixed order: their paths' bytes one after the other, and a few numbers for each.

    Each VideoFile is made when it is asked for. Processes that they are sent to share the memory.
    """

    def __init__(
        self, root: Path, paths: SharedArray, ends: SharedArray, labels: SharedArray, windows: SharedArray | None
    ) -> None:
        """``paths``: from ``root``, in UTF-8, uint8; ``ends`` of each in them, from 0 on, int64 (n + 1);
        ``windows``: start and end of each after the other, float64 (2 n), inf for none, if any video has one.
        """
        self.root, self._paths, self._ends, self._labels, self._windows = root, paths, ends, labels, windows

    @classmethod
    def of(cls, videos: Iterable[VideoFile]) -> VideoFiles:
        gathered = Gathering(Path())
        for path, label, start, end in videos:
            gathered.add(str(path), label, start, end)
        return gathered.videos()

    patience_s = 0.0

    def bring(self, wanted: Mapping[int, Choice]) -> None:
        """They are here."""

    @property
    def labels(self) -> np.ndarray:
        """int32 (n,); -1 for none."""
        return self._labels.values

    def with_labels(self, labels: np.ndarray) -> VideoFiles:
        return VideoFiles(self.root, self._paths, self._ends, SharedArray.of(labels.astype(np.int32)), self._windows)

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, at: int) -> VideoFile: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[VideoFile, ...]: ...
    def __getitem__(self, at: int | slice) -> VideoFile | tuple[VideoFile, ...]:
        chosen = range(len(self))[at]  # raises IndexError
        if isinstance(chosen, range):
            return tuple(self[one] for one in chosen)
        label = int(self.labels[chosen])
        return VideoFile(self.root / self.listed(chosen), None if label == _NO_LABEL else label, *self.window(chosen))

    def listed(self, at: int) -> str:
        """The path as the list has it."""
        begin, end = self._ends.values[at : at + 2].tolist()
        return _decoded(self._paths.values[begin:end].tobytes())

    def digest(self, start: Path, classes: Sequence[str]) -> str:
        """A hash of paths (from ``start``), labels, windows and names of classes."""
        labels = (None if label < 0 else label for label in self.labels.tolist())
        each = zip(_relative(self.paths(), start), labels, self.windows(), strict=True)
        lines = chain((f"{path}\0{label}{window_name(*window)}" for path, label, window in each), classes)
        found, between = sha256(), ""
        while some := list(islice(lines, _AT_ONCE)):
            found.update(os.fsencode(between + "\n".join(some)))
            between = "\n"
        return found.hexdigest()[:16]

    def window(self, at: int) -> Window:
        return _WHOLE if self._windows is None else _window(*self._windows.values[2 * at : 2 * at + 2].tolist())

    def windows(self) -> Iterator[Window]:
        """Of all."""
        if self._windows is None:
            yield from repeat(_WHOLE, len(self))
        else:
            for first in range(0, 2 * len(self), _AT_ONCE):
                numbers = iter(self._windows.values[first : first + _AT_ONCE].tolist())
                yield from map(_window, numbers, numbers)

    def paths(self) -> Iterator[str]:
        """Of all, without the expense of a Path; not normalised."""
        root = str(self.root)
        for first in range(0, len(self), _AT_ONCE):
            ends = self._ends.values[first : first + _AT_ONCE + 1].tolist()
            text = self._paths.values[ends[0] : ends[-1]].tobytes()
            for begin, end in pairwise(ends):
                yield os.path.join(root, _decoded(text[begin - ends[0] : end - ends[0]]))

    def repeated(self, spelled: Callable[[str], str], values: np.ndarray) -> list[int]:
        """Which windows, in their order, are there again with another of ``values``, as paths are ``spelled``.

        By 64 bits of a hash: what is found is to be looked at again.
        """
        keys = np.fromiter(map(hash, zip(map(spelled, self.paths()), self.windows(), strict=True)), np.int64, len(self))
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
        several = np.minimum.reduceat(values, starts) != np.maximum.reduceat(values, starts)
        return np.sort(order[np.repeat(several, np.diff(starts, append=len(self)))]).tolist()


class Gathering:
    """Videos one after the other, which become VideoFiles."""

    def __init__(self, root: Path) -> None:
        self._root, self._paths, self._unwritten = root, NamelessFile(), bytearray()
        self._ends, self._labels = array("q", [0]), array("i")
        self._windows: array[float] | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, path: str, label: int | None, start: float = 0.0, end: float | None = None) -> None:
        """A path from the root."""
        encoded = path.encode("utf-8", "surrogateescape")
        if self._windows is None and (start, end) != _WHOLE:
            self._windows = array("d", (0.0, math.inf)) * len(self)
        if self._windows is not None:
            self._windows.extend((start, math.inf if end is None else end))
        self._unwritten += encoded
        self._ends.append(self._ends[-1] + len(encoded))
        self._labels.append(_NO_LABEL if label is None else label)
        if len(self._unwritten) > _PIECE:
            self._write()

    def videos(self) -> VideoFiles:
        """All of them; there is nothing to add afterwards."""
        self._write()
        paths, ends, labels = SharedArray(self._paths, "u1"), _shared(self._ends), _shared(self._labels)
        return VideoFiles(self._root, paths, ends, labels, None if self._windows is None else _shared(self._windows))

    def _write(self) -> None:
        self._paths.write(self._unwritten)
        self._unwritten.clear()


def _shared(numbers: array[int] | array[float]) -> SharedArray:
    return SharedArray.of(np.frombuffer(numbers, numbers.typecode))


def _window(start: float, end: float) -> Window:
    return start, None if end == math.inf else end


def _decoded(path: bytes) -> str:
    """Bytes that are no UTF-8 stay as they are, as everywhere in names of files."""
    return path.decode("utf-8", "surrogateescape")


def _relative(paths: Iterable[str], start: Path) -> Iterator[str]:
    """``os.path.relpath`` of each, asked once a folder."""
    of_folder = lru_cache(maxsize=1000)(partial(os.path.relpath, start=start))
    for path in paths:
        folder, mark, name = path.rpartition("/")
        above = of_folder(folder or mark or ".")
        if name in ("", ".", "..") or above.endswith(".."):  # then the name may lead back down to the start
            yield os.path.relpath(path, start)
        else:
            yield name if above == "." else f"{above}/{name}"
