"""Real videos, and sets packed from them."""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import av

from everest.data.index import VideoIndex, read_index
from everest.data.packed.pack import Packing, Part, how_to_pack
from everest.data.packed.place import place_at
from everest.data.packed.source import source_at
from everest.errors import UsageError

#: The clips of the tests.
VIDEOS = Path(os.environ.get("EVEREST_TEST_CLIPS", Path(__file__).resolve().parents[2] / "shared/clips"))

#: Of the tests' S3 server.
BUCKET = os.environ.get("EVEREST_TEST_BUCKET", "everest")

_S3 = os.environ.get("EVEREST_TEST_S3", "http://127.0.0.1:7070")
_KEYS = {"AWS_ACCESS_KEY_ID": "everest", "AWS_SECRET_ACCESS_KEY": "everest-secret"}


def readable(videos: Path, listed: Path) -> Path:
    """A list of those that are long enough to be sampled. Raises UsageError where there is none."""
    if not videos.is_dir():
        raise UsageError(f"{videos} is no folder of videos; --videos names one")
    found = []
    for file in sorted(videos.iterdir()):
        with suppress(av.FFmpegError, IndexError, OSError), av.open(str(file)) as container:
            if sum(1 for _ in container.decode(video=0)) >= 32:
                found.append(str(file.resolve()))
    if not found:
        raise UsageError(f"{videos} has no video of 32 frames or more")
    listed.write_text("\n".join(found))
    return listed


def packed_set(
    listed: Path, out: str, shard_videos: int | None = None, workers: int = os.cpu_count() or 1
) -> VideoIndex:
    """As ``everest data pack`` packs them."""
    with source_at(str(listed), None) as source:
        packing = Packing(source, how_to_pack(source.index, shard_videos=shard_videos), place_at(out), Part(), 0.0, 600)
        packing.begin()
        packing.pack(workers)
        packing.finish()
    return read_index(out)


def s3_server() -> str | None:
    """The tests' one, whose keys are in the environment from now on; None, said so, where it does not answer."""
    parts = urlsplit(_S3)
    try:
        socket.create_connection((str(parts.hostname), parts.port or 80), timeout=1).close()
    except OSError:
        print(f"no S3 server at {_S3} (EVEREST_TEST_S3): S3 is left out", file=sys.stderr)
        return None
    os.environ |= {name: os.environ.get(name, value) for name, value in _KEYS.items()}
    os.environ["EVEREST_S3_ENDPOINT"] = _S3
    return _S3


def in_s3(listed: Path, cache: Path) -> VideoIndex | None:
    """The same in the tests' S3 server, read through a cache; None where there is no server."""
    if s3_server() is None:
        return None
    os.environ["EVEREST_CACHE"] = str(cache)
    return packed_set(listed, f"s3://{BUCKET}/bench/{os.getpid()}")
