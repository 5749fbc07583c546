"""What a packed set is made of.

::

    pack.json          from what and how it is made: written first, so that all parts are made alike
    shards/00000.tar   the videos one after another: 0000017/video.json, 0000017/000000.jpg, 0000017/000001.jpg …
    shards/00000.idx   where each of its frames is in it, rows of FRAME
    shards/00000.json  its videos and sums, written when the two above are whole
    frames.idx         the rows of all shards, one after another
    videos.npy         where each video is, rows of VIDEO in the order of the list
    paths.bin          the videos' names, one after another
    manifest.json      what is in it, with the sums of all files: written last
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self
from zlib import crc32

import numpy as np

from everest.data.packed.place import FileSum

PLAN, MANIFEST, VIDEOS, FRAMES, PATHS = "pack.json", "manifest.json", "videos.npy", "frames.idx", "paths.bin"
FORMAT = "everest packed set 1"

#: Of a video; ``row`` is its first one in frames.idx. Sizes are in pixels,
#: ``rate`` in frames per second; a broken video has no frames.
VIDEO = np.dtype(
    [
        ("shard", "<u4"), ("row", "<u8"), ("frames", "<u4"), ("label", "<i4"),
        ("height", "<u4"), ("width", "<u4"), ("shown_height", "<u4"), ("shown_width", "<u4"), ("rate", "<f4"),
        ("path_end", "<u8"),
    ]
)  # fmt: skip
#: Of a frame: the place of its JPEG in the shard, and a checksum over which frame it is and its bytes.
FRAME = np.dtype([("offset", "<u8"), ("length", "<u4"), ("sum", "<u4")])


def frame_sum(video: int, frame: int, content: bytes) -> int:
    """Differs also where the right bytes are those of another frame."""
    return crc32(content, crc32(np.array([video, frame], "<u8").tobytes()))


def tar_of(shard: int) -> str:
    return f"shards/{shard:05d}.tar"


def frames_of(shard: int) -> str:
    return f"shards/{shard:05d}.idx"


def piece_of(shard: int) -> str:
    return f"shards/{shard:05d}.json"


@dataclass(frozen=True)
class How:
    """What decides every byte of a packed set."""

    source: str  # digest of the list or folder
    videos: int
    short_side: int
    quality: int
    every: int
    shard_videos: int
    software: str  # that decodes and encodes
    format: str = FORMAT

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True)
class Packed:
    """A video in its shard."""

    number: int
    height: int
    width: int
    shown_height: int
    shown_width: int
    rate: float
    frames: int


@dataclass(frozen=True)
class Piece:
    """A finished shard."""

    videos: tuple[Packed, ...]
    bad: Mapping[int, str]  # number of the video -> reason
    tar: FileSum
    index: FileSum

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        tree = json.loads(text)
        return cls(
            videos=tuple(Packed(**video) for video in tree["videos"]),
            bad={int(number): reason for number, reason in tree["bad"].items()},
            tar=FileSum(*tree["tar"]),
            index=FileSum(*tree["index"]),
        )
