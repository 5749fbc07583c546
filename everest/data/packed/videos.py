"""The videos of a packed set, in the order of the list it was made from; the broken ones are there without frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from simplejpeg import decode_jpeg

from everest.config import DataConfig
from everest.data.decode import DecodeError
from everest.data.packed.format import (
    FRAME,
    FRAMES,
    PATHS,
    VIDEOS,
    frame_sum,
    tar_of,
)
from everest.data.packed.manifest import Manifest
from everest.data.packed.place import Place, Range
from everest.data.shared_array import SharedArray
from everest.data.video import Choice, Plan
from everest.errors import EverestError

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 2**26  # bytes of a frame
_AT_ONCE = 8  # videos that are brought


class PackedVideos(Sequence["PackedVideo"]):
    """Rows of VIDEO and names, mapped from files: all processes of a machine share them."""

    def __init__(
        self, place: Place, table: Path, names: Path, bad: dict[str, str], set_digest: str, labels: SharedArray | None
    ) -> None:
        """``labels`` None: those that were packed."""
        self.place, self.bad = place, bad
        self._table, self._paths, self._digest, self._labels = table, names, set_digest, labels
        self._requests = -1
        self._pool: ThreadPoolExecutor | None = None
        self._rows = np.load(table, mmap_mode="r")
        self._names = np.memmap(names, np.uint8, "r") if names.stat().st_size else np.empty(0, np.uint8)

    @classmethod
    def open(cls, place: Place, manifest: Manifest) -> Self:
        table, names = (place.fetch(name, manifest.files[name]) for name in (VIDEOS, PATHS))
        return cls(place, table, names, dict(manifest.bad), manifest.digest(), None)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedVideos, (self.place, self._table, self._paths, self.bad, self._digest, self._labels)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> PackedVideo: ...
    @overload
    def __getitem__(self, number: slice) -> list[PackedVideo]: ...
    def __getitem__(self, number: int | slice) -> PackedVideo | list[PackedVideo]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return PackedVideo(self, number % len(self))

    @property
    def labels(self) -> np.ndarray:
        """int32 (videos,); -1 for none."""
        found: np.ndarray = self._labels.values if self._labels else self._rows["label"]
        return found

    def with_labels(self, labels: np.ndarray) -> PackedVideos:
        shared = SharedArray.of(labels.astype(np.int32))
        return PackedVideos(self.place, self._table, self._paths, self.bad, self._digest, shared)

    @property
    def patience_s(self) -> float:
        return self.place.patience_s

    def bring(self, wanted: Mapping[int, Choice]) -> None:
        if self.place.requests > self._requests and len(wanted) > 1:  # else all has been here, of late
            self._requests = self.place.requests
            chosen = [(self[number], self[number].chosen(choice)) for number, choice in wanted.items()]
            self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE)
            list(self._pool.map(_bring, *zip(*chosen, strict=True)))

    def digest(self, start: Path, classes: Sequence[str]) -> str:
        """That of the whole set, wherever it lies."""
        return self._digest

    def row(self, number: int) -> np.void:
        found: np.void = self._rows[number]
        return found

    def name_of(self, number: int) -> str:
        begin = int(self._rows[number - 1]["path_end"]) if number else 0
        return os.fsdecode(self._names[begin : int(self._rows[number]["path_end"])].tobytes())


class PackedVideo:
    """A Video."""

    def __init__(self, videos: PackedVideos, number: int) -> None:
        self._videos, self.number = videos, number

    @property
    def name(self) -> str:
        return self._videos.name_of(self.number)

    @property
    def label(self) -> int | None:
        label = int(self._videos.labels[self.number])
        return None if label < 0 else label

    def chosen(self, choice: Choice) -> np.ndarray:
        """None of a video that was left out."""
        row = self._videos.row(self.number)
        if not row["frames"]:
            return np.empty(0, int)
        return choice(int(row["frames"]), int(row["shown_height"]), int(row["shown_width"]))

    def bring(self, numbers: np.ndarray) -> None:
        """Where its place keeps copies of what was read."""
        if len(numbers):
            self._read(np.unique(numbers), again=False)

    def cut(self, plan: Plan, data: DataConfig) -> list[Tensor]:
        from everest.data.transforms import cut_out  # torch, which where videos are packed nothing else needs

        row = self._row()
        cut = plan(int(row["frames"]), int(row["shown_height"]), int(row["shown_width"]))
        pictures = self._pictures(cut.numbers)
        return [cut_out(pictures, crop, cut.size) for crop in cut.crops]

    def frames(self, choose: Callable[[int], np.ndarray], short_side: int, data: DataConfig) -> Tensor:
        from everest.data.transforms import scale_short_side

        return scale_short_side(self._pictures(choose(int(self._row()["frames"]))), short_side)

    def _row(self) -> np.void:
        row = self._videos.row(self.number)
        if not row["frames"]:
            raise DecodeError(self._videos.bad.get(self.name, "it was left out of the packed set"))
        return row

    def _pictures(self, numbers: np.ndarray) -> Tensor:
        """uint8 (frames, H, W, 3)."""
        import torch

        row = self._videos.row(self.number)
        wanted, places = np.unique(numbers, return_inverse=True)
        pictures = np.empty((len(wanted), int(row["height"]), int(row["width"]), 3), np.uint8)
        for picture, content in zip(pictures, self._jpegs(wanted), strict=True):
            decode_jpeg(content, buffer=picture)
        found = torch.from_numpy(pictures)
        return found if len(wanted) == len(numbers) else found.index_select(0, torch.from_numpy(places))

    def _jpegs(self, wanted: np.ndarray) -> list[bytes]:
        for again in (False, True):
            found, sums = self._read(wanted, again)
            if sums == [frame_sum(self.number, int(frame), each) for frame, each in zip(wanted, found, strict=True)]:
                return found
        place, shard = self._videos.place, int(self._videos.row(self.number)["shard"])
        raise EverestError(
            f"{place.address}/{tar_of(shard)}: frames of {self.name} are not those that were packed (their sums "
            f"differ); everest data check {place.address} looks at all, everest data pack makes the set anew"
        )

    def _read(self, wanted: np.ndarray, again: bool) -> tuple[list[bytes], list[int]]:
        """The bytes in the places of these frames, rising, and the sums that they should have."""
        place, row = self._videos.place, self._videos.row(self.number)
        first = int(row["row"]) + int(wanted[0])
        span = Range(first * FRAME.itemsize, (int(wanted[-1] - wanted[0]) + 1) * FRAME.itemsize)
        rows = np.frombuffer(place.read(FRAMES, [span], again)[0], FRAME)[wanted - wanted[0]]
        if rows["length"].max() > _LARGEST:
            return [b""] * len(rows), [-1] * len(rows)
        ranges = [Range(int(offset), int(length)) for offset, length, _ in rows]
        return place.read(tar_of(int(row["shard"])), ranges, again), rows["sum"].tolist()


def _bring(video: PackedVideo, numbers: np.ndarray) -> None:
    with suppress(EverestError):
        video.bring(numbers)
