"""How each format is written to a folder, and opened there or below an address ``s3://…``, with nothing kept here."""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast

import boto3
import lance
import litdata
import numpy as np
import pyarrow as pa
import webdataset
from botocore.config import Config

from benchmarks.formats.clips import Read, videos
from benchmarks.videos import packed_set
from everest.data.index import read_index
from everest.data.packed.place import is_address
from everest.data.packed.videos import PackedVideos

_REGION = "us-east-1"
_LANCE = (pa.uint32(), pa.uint32(), pa.large_binary())


class Format(NamedTuple):
    write: Callable[[Path], object]
    open: Callable[[str], Read]


def formats_of(listed: Path, frames: list[list[bytes]], packed: Path) -> dict[str, Format]:
    first = [0, *accumulate(map(len, frames))]
    return {
        "tar and index": Format(partial(pack, listed), _open_packed),
        "Lance": Format(partial(_write_lance, frames), partial(_open_lance, first)),
        "LitData": Format(partial(_write_litdata, packed), partial(_open_litdata, first)),
        "WebDataset": Format(partial(_write_webdataset, frames), _open_webdataset),
    }


def pack(listed: Path, out: Path) -> None:
    """All videos in one shard, as 64 of a large set are."""
    packed_set(listed, str(out), shard_videos=64, workers=1)


def _open_packed(address: str) -> Read:
    os.environ["EVEREST_CACHE"] = tempfile.mkdtemp()
    found = cast(PackedVideos, read_index(address).videos)
    return lambda video, wanted: found[video]._jpegs(wanted)


def _write_lance(frames: list[list[bytes]], folder: Path) -> None:
    rows = [(video, number, jpeg) for video, jpegs in enumerate(frames) for number, jpeg in enumerate(jpegs)]
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), _LANCE, strict=True)]
    lance.write_dataset(pa.table(columns, names=["video", "frame", "jpeg"]), folder)


def _open_lance(first: list[int], address: str) -> Read:
    where = {"aws_endpoint": _endpoint(), "aws_region": _REGION, "allow_http": "true"}
    rows = lance.dataset(address, storage_options=where if is_address(address) else None)
    return lambda video, wanted: rows.take((first[video] + wanted).tolist(), ["jpeg"])["jpeg"].to_pylist()


def _write_litdata(packed: Path, folder: Path) -> None:
    """One item a frame: that is the least which it can read."""
    litdata.optimize(_one_after_another, [str(packed)], str(folder), chunk_bytes="64MB", num_workers=1, verbose=False)


def _one_after_another(packed: str) -> Iterator[bytes]:
    for jpegs in videos(Path(packed)):
        yield from jpegs


def _open_litdata(first: list[int], address: str) -> Read:
    where: dict[str, Any] = {}
    if is_address(address):
        where = {"storage_options": {"endpoint_url": _endpoint()}, "cache_dir": tempfile.mkdtemp()}
    items = litdata.StreamingDataset(address, **where)
    return lambda video, wanted: [items[first[video] + int(number)] for number in wanted]


def _write_webdataset(frames: list[list[bytes]], folder: Path) -> None:
    """One sample a video."""
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "00000.tar"), encoder=False, mtime=0) as tar:
        for video, jpegs in enumerate(frames):
            tar.write({"__key__": f"{video:07d}", **{f"{n:06d}.jpg": jpeg for n, jpeg in enumerate(jpegs)}})


def samples(address: str) -> webdataset.WebDataset:
    """From S3 by curl, with an address that is signed."""
    where = f"{address}/00000.tar"
    if is_address(address):
        bucket, _, key = where.removeprefix("s3://").partition("/")
        signed = s3().generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})
        where = f"pipe:curl --silent --fail '{signed}'"
    return webdataset.WebDataset(where, shardshuffle=False)


def _open_webdataset(address: str) -> Read:
    """It has no way to a place but to read up to it."""

    def read(video: int, wanted: np.ndarray) -> list[bytes]:
        sample = next(sample for sample in samples(address) if sample["__key__"] == f"{video:07d}")
        return [sample[f"{number:06d}.jpg"] for number in wanted]

    return read


def s3() -> Any:
    return boto3.client("s3", endpoint_url=_endpoint(), region_name=_REGION, config=Config(signature_version="s3v4"))


def _endpoint() -> str:
    return os.environ.get("EVEREST_S3_ENDPOINT", "")
