"""One shard: some videos in a tar file, and where each of their frames is in it."""

import json
import tarfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from everest.data.decode import DecodeError, jpegs
from everest.data.files import Window
from everest.data.packed.format import FRAME, How, Packed, Piece, frame_sum
from everest.data.packed.place import FileSum
from everest.data.reader.frames import Facts


class Item(NamedTuple):
    """A video to pack."""

    number: int  # in the list
    name: str
    label: int | None
    window: Window
    here: AbstractContextManager[Path]


def write_shard(
    items: Iterable[Item], how: How, tar: Path, index: Path, time_limit: float, said: Callable[[Item, str | None], None]
) -> Piece:
    """Packs videos into two files. ``said`` hears of each, with the reason where it is left out."""
    done: list[Packed] = []
    bad: dict[int, str] = {}
    with tar.open("wb") as shard, index.open("wb") as rows:
        for item in items:
            begin, reason = shard.tell(), None
            try:
                packed, frames = _write_video(item, how, shard, time_limit)
            except DecodeError as error:
                reason = bad[item.number] = str(error)
                _cut_off(shard, begin)
            else:
                done.append(packed)
                rows.write(frames.tobytes())
            said(item, reason)
        shard.write(bytes(2 * tarfile.BLOCKSIZE))
    return Piece(tuple(done), bad, FileSum.of(tar), FileSum.of(index))


def _write_video(item: Item, how: How, shard: BinaryIO, time_limit: float) -> tuple[Packed, np.ndarray]:
    begin = shard.tell()
    rows: list[tuple[int, int, int]] = []
    with item.here as path:
        for found in jpegs(path, how.short_side, how.quality, how.every, time_limit, *item.window):
            if isinstance(found, Facts):
                _cut_off(shard, begin)
                facts, rows = found, []
                continue
            frame = len(rows)
            offset = _add(shard, f"{item.number:07d}/{frame:06d}.jpg", found)
            rows.append((offset, len(found), frame_sum(item.number, frame, found)))
    packed = Packed(number=item.number, frames=len(rows), **facts._asdict())
    about = {"name": item.name, "label": item.label, **asdict(packed)}
    _add(shard, f"{item.number:07d}/video.json", json.dumps(about, indent=1).encode())
    return packed, np.array(rows, FRAME)


def _cut_off(shard: BinaryIO, place: int) -> None:
    """What was written from there on."""
    shard.seek(place)
    shard.truncate()


def _add(shard: BinaryIO, name: str, content: bytes) -> int:
    """Appends a file to a tar, and returns where its bytes begin."""
    head = tarfile.TarInfo(name)
    head.size = len(content)
    shard.write(head.tobuf(tarfile.USTAR_FORMAT))
    offset = shard.tell()
    shard.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return offset
