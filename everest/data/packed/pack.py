"""Making a packed set: shards side by side, each whole or not there, and what they are together at the end."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from everest.data.bad import BadVideos
from everest.data.files import VideoFiles
from everest.data.index import VideoIndex
from everest.data.packed.format import (
    FRAMES,
    MANIFEST,
    PATHS,
    PLAN,
    VIDEO,
    VIDEOS,
    How,
    Piece,
    frames_of,
    piece_of,
    tar_of,
)
from everest.data.packed.manifest import Manifest
from everest.data.packed.place import FileSum, Place, Range
from everest.data.packed.shard import Item, write_shard
from everest.data.packed.source import Source
from everest.errors import UsageError

_MOST_IN_A_SHARD, _FEWEST_SHARDS = 64, 64


class Stopped(Exception):
    """Packing was asked to stop."""


@dataclass(frozen=True)
class Part:
    """Of several that share the work: the shards whose number leaves ``number - 1`` divided by ``of``."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Of ``3/8``. Raises UsageError."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UsageError(f"--part {text}: must be one of several, as 3/8")
        return cls(int(number), int(of))


def how_to_pack(
    index: VideoIndex[VideoFiles],
    short_side: int = 256,
    quality: int = 90,
    every: int = 1,
    shard_videos: int | None = None,
) -> How:
    """``shard_videos`` None: up to 64, and fewer where that would make less than 64 shards."""
    count = len(index.videos)
    return How(
        source=index.digest(),
        videos=count,
        short_side=short_side,
        quality=quality,
        every=every,
        shard_videos=shard_videos or min(_MOST_IN_A_SHARD, max(1, count // _FEWEST_SHARDS)),
        software=f"PyAV {version('av')}, simplejpeg {version('simplejpeg')}",
    )


@dataclass
class Packing:
    """One part of a set in the making.

    ``advance`` is called for each video that is packed or was before.
    """

    source: Source
    how: How
    out: Place
    part: Part
    max_bad: float
    time_limit: float
    advance: Callable[[int], None] = lambda count: None

    def __post_init__(self) -> None:
        self.bad = BadVideos(len(self.source.index.videos), self.max_bad)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._there: set[str] = set()  # in the shards' folder, as far as is known

    @property
    def shards(self) -> int:
        return -(-self.how.videos // self.how.shard_videos)

    @property
    def videos(self) -> int:
        """Of this part."""
        return sum(len(self.videos_of(shard)) for shard in self.ours)

    @property
    def missing(self) -> int:
        """Shards that are not there yet, as far as is known: others may be making them."""
        return sum(piece_of(shard) not in self._there for shard in range(self.shards))

    @property
    def ours(self) -> range:
        return range(self.part.number - 1, self.shards, self.part.of)

    def videos_of(self, shard: int) -> range:
        begin = shard * self.how.shard_videos
        return range(begin, min(begin + self.how.shard_videos, self.how.videos))

    def begin(self) -> None:
        """Raises UsageError where the place holds another set, or this one made otherwise."""
        with self.out.alone("begin"):
            begun = self.out.text(PLAN)
            if begun is None and self.out.names():
                begun = self.out.text(PLAN)  # first of all that is written: another part may have begun meanwhile
                if begun is None:
                    raise UsageError(f"{self.out.address} is not empty and no packed set; choose another place")
            if begun is None:
                self._put(PLAN, self.how.text())
                return
        if begun != self.how.text():
            raise UsageError(
                f"{self.out.address} was begun otherwise ({_difference(begun, self.how)}); choose another place"
            )

    def pack(self, workers: int) -> None:
        """Packs the shards of this part that are not there yet. Raises TooManyBad."""
        with self.out.alone(f"part-{self.part.number}"):
            self._pack(workers)

    def _pack(self, workers: int) -> None:
        self._look()
        missing = []
        for shard in self.ours:
            if piece_of(shard) in self._there:
                piece = self._piece(shard)
                self.bad.add({self._item(number).name: reason for number, reason in piece.bad.items()})
                self.advance(len(self.videos_of(shard)))
            else:
                missing.append(shard)
        self.bad.check()
        with ThreadPool(max(1, min(workers, len(missing)))) as pool:
            try:
                for _ in pool.imap_unordered(self._pack_shard, missing):
                    pass
            finally:
                self._stop.set()

    def finish(self) -> Manifest | None:
        """Says what all shards are together; None where some are still missing."""
        if (text := self.out.text(MANIFEST)) is not None:
            return Manifest.parse(text, self.out.address)
        if self.missing:
            self._look()
        if self.missing:
            return None
        with self.out.alone("finish"):
            return self._finish()

    def _finish(self) -> Manifest:
        with ThreadPool(8) as pool:
            pieces = pool.map(self._piece, range(self.shards))
        bad = {self._item(number).name: why for piece in pieces for number, why in piece.bad.items()}
        self.bad.reasons = dict(bad)
        self.bad.check()
        files: dict[str, FileSum] = {}
        for shard, piece in enumerate(pieces):
            files[tar_of(shard)] = piece.tar
        videos, paths = self._tables(pieces)
        with self.out.writing(VIDEOS) as rows, rows.open("wb") as file:
            np.save(file, videos)
            file.flush()
            files[VIDEOS] = FileSum.of(rows)
        with self.out.writing(FRAMES) as joined, joined.open("wb") as file:
            for shard, piece in enumerate(pieces):
                file.write(self.out.read(frames_of(shard), [Range(0, piece.index.bytes)])[0])
            file.flush()
            files[FRAMES] = FileSum.of(joined)
        with self.out.writing(PATHS) as names:
            names.write_bytes(paths)
            files[PATHS] = FileSum.of(names)
        manifest = Manifest(
            how=self.how,
            videos=len(videos),
            frames=int(videos["frames"].sum()),
            bytes=sum(found.bytes for found in files.values()),
            classes=self.source.index.classes,
            bad=bad,
            files=files,
        )
        self._put(MANIFEST, manifest.text())
        return manifest

    def _pack_shard(self, shard: int) -> None:
        with self.out.writing(tar_of(shard)) as tar, self.out.writing(frames_of(shard)) as frames:
            piece = write_shard(
                map(self._item, self.videos_of(shard)), self.how, tar, frames, self.time_limit, self._said
            )
        self._put(piece_of(shard), piece.text())
        self._there.add(piece_of(shard))

    def _look(self) -> None:
        self._there = set(self.out.names("shards"))

    def _said(self, item: Item, reason: str | None) -> None:
        with self._lock:
            if self._stop.is_set():
                raise Stopped
            if reason:
                self.bad.add({item.name: reason})
            self.advance(1)
            self.bad.check()

    def _item(self, number: int) -> Item:
        index = self.source.index
        video = index.videos[number]
        name = os.path.relpath(video.name, Path(index.source).parent)
        return Item(number, name, video.label, video.window, self.source.here(video))

    def _tables(self, pieces: Sequence[Piece]) -> tuple[np.ndarray, bytes]:
        """Rows of VIDEO in the order of the list, and the videos' names one after another."""
        names = [os.fsencode(self._item(number).name) for number in range(self.how.videos)]
        videos = np.zeros(len(names), VIDEO)
        videos["path_end"] = np.cumsum([len(name) for name in names])
        videos["label"] = self.source.index.videos.labels
        row = 0
        for shard, piece in enumerate(pieces):
            for packed in piece.videos:
                place = videos[packed.number : packed.number + 1]
                place["shard"], place["row"] = shard, row
                for name in ("frames", "height", "width", "shown_height", "shown_width", "rate"):
                    place[name] = getattr(packed, name)
                row += packed.frames
        return videos, b"".join(names)

    def _piece(self, shard: int) -> Piece:
        return Piece.parse(self.out.text(piece_of(shard)) or "")

    def _put(self, name: str, text: str) -> None:
        with self.out.writing(name) as file:
            file.write_text(text, encoding="utf-8")


def _difference(begun: str, now: How) -> str:
    """Raises ValueError where it is no plan."""
    before = json.loads(begun)
    return ", ".join(
        f"{name} {before.get(name)} -> {value}" for name, value in asdict(now).items() if before.get(name) != value
    )
