"""Videos that are files: one, and a million of them in little memory."""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from torch import Tensor

from everest.config import DataConfig
from everest.data.decode import cut, decode
from everest.data.shared_array import NamelessFile, SharedArray
from everest.data.video import Plan

_NO_LABEL = -1
_AT_ONCE = 10_000  # videos
_PIECE = 1 << 20  # bytes


class VideoFile(NamedTuple):
    """A Video."""

    path: Path
    label: int | None

    @property
    def name(self) -> str:
        return str(self.path)

    def cut(self, plan: Plan, data: DataConfig) -> list[Tensor]:
        return list(cut(self.path, plan, data.reader, data.time_limit))

    def frames(self, choose: Callable[[int], np.ndarray], short_side: int, data: DataConfig) -> Tensor:
        return decode(self.path, short_side, choose, data.reader, data.time_limit)


class VideoFiles(Sequence[VideoFile]):
    """Videos in a fixed order: their paths' bytes one after the other, and a few numbers for each.

    Each VideoFile is made when it is asked for. Processes that they are sent to share the memory.
    """

    def __init__(self, root: Path, paths: SharedArray, ends: SharedArray, labels: SharedArray) -> None:
        """``paths``: from ``root``, in UTF-8, uint8; ``ends`` of each in them, from 0 on, int64 (n + 1)."""
        self.root, self._paths, self._ends, self._labels = root, paths, ends, labels

    @classmethod
    def of(cls, videos: Iterable[VideoFile]) -> "VideoFiles":
        gathered = Gathering(Path())
        for path, label in videos:
            gathered.add(str(path), label)
        return gathered.videos()

    @property
    def labels(self) -> np.ndarray:
        """int32 (n,); -1 for none."""
        return self._labels.values

    def with_labels(self, labels: np.ndarray) -> "VideoFiles":
        return VideoFiles(self.root, self._paths, self._ends, SharedArray.of(labels.astype(np.int32)))

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
        return VideoFile(self.root / self.listed(chosen), None if label == _NO_LABEL else label)

    def listed(self, at: int) -> str:
        """The path as the list has it."""
        begin, end = self._ends.values[at : at + 2].tolist()
        return _decoded(self._paths.values[begin:end].tobytes())

    def digest(self, start: Path, classes: Sequence[str]) -> str:
        """A hash of paths (from ``start``), labels and names of classes."""
        labels = (None if label < 0 else label for label in self.labels.tolist())
        paths = _relative(self.paths(), start)
        lines = chain((f"{path}\0{label}" for path, label in zip(paths, labels, strict=True)), classes)
        found, between = sha256(), ""
        while some := list(islice(lines, _AT_ONCE)):
            found.update(os.fsencode(between + "\n".join(some)))
            between = "\n"
        return found.hexdigest()[:16]

    def paths(self) -> Iterator[str]:
        """Of all, without the expense of a Path; not normalised."""
        root = str(self.root)
        for first in range(0, len(self), _AT_ONCE):
            ends = self._ends.values[first : first + _AT_ONCE + 1].tolist()
            text = self._paths.values[ends[0] : ends[-1]].tobytes()
            for begin, end in pairwise(ends):
                yield os.path.join(root, _decoded(text[begin - ends[0] : end - ends[0]]))

    def repeated(self, spelled: Callable[[str], str], values: np.ndarray) -> list[int]:
        """Which ones, in their order, are there again with another of ``values``, as their paths are ``spelled``.

        By 64 bits of a hash: what is found is to be looked at again.
        """
        keys = np.fromiter((hash(spelled(path)) for path in self.paths()), np.int64, len(self))
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] - 1))
        values = values[order]
        several = np.minimum.reduceat(values, starts) != np.maximum.reduceat(values, starts)
        return np.sort(order[np.repeat(several, np.diff(starts, append=len(self)))]).tolist()


class Gathering:
    """Videos one after the other, which become VideoFiles."""

    def __init__(self, root: Path) -> None:
        self._root, self._paths, self._unwritten = root, NamelessFile(), bytearray()
        self._ends, self._labels = array("q", [0]), array("i")

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, path: str, label: int | None) -> None:
        """A path from the root."""
        encoded = path.encode("utf-8", "surrogateescape")
        self._unwritten += encoded
        self._ends.append(self._ends[-1] + len(encoded))
        self._labels.append(_NO_LABEL if label is None else label)
        if len(self._unwritten) > _PIECE:
            self._write()

    def videos(self) -> VideoFiles:
        """All of them; there is nothing to add afterwards."""
        self._write()
        ends, labels = (SharedArray.of(np.frombuffer(kept, kept.typecode)) for kept in (self._ends, self._labels))
        return VideoFiles(self._root, SharedArray(self._paths, "u1"), ends, labels)

    def _write(self) -> None:
        self._paths.write(self._unwritten)
        self._unwritten.clear()


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
