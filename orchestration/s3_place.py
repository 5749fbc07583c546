"""Packed sets in S3: parts of their files, many at a time, and copies of these on the local disk."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from everest.data.packed.place import FileSum, Range
from everest.errors import EverestError, UsageError
from everest.files import locked
from orchestration.block_cache import BlockCache
from orchestration.s3 import S3Store
from orchestration.settings import Bucket, PlatformSettings, bytes_of, check_argument

_BLOCK = 2**18  # bytes that are read and kept together
_MOST_BLOCKS = 32  # of one request
_AT_ONCE = 8  # requests
_PART = 2**20  # bytes of a file that are summed at a time


class S3Place:
    """Place below ``s3://bucket/prefix``."""

    def __init__(self, address: str, settings: PlatformSettings | None = None) -> None:
        self.settings = settings or PlatformSettings.load()
        bucket, prefix = _parts(address)
        self.address = f"s3://{bucket}/{prefix}"
        self.patience_s = float(self.settings.patience_s)
        there = self.settings.model_copy(update={"s3_bucket": bucket, "s3_prefix": ""})
        self._store = S3Store(there, prefix)
        self._name = sha256(self.address.encode()).hexdigest()[:16]
        self._cache = BlockCache(self.settings.cache_folder / "blocks", bytes_of(self.settings.cache_size))
        self._pool: ThreadPoolExecutor | None = None
        self.requests = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Place, (self.address, self.settings)

    def names(self, folder: str = "") -> Sequence[str]:
        return [name for name in self._store.list() if name.startswith(folder)]

    def text(self, name: str) -> str | None:
        return self._store.read(name)

    def read(self, name: str, ranges: Sequence[Range], again: bool = False) -> list[bytes]:
        wanted = sorted({block for part in ranges for block in _blocks_of(part)})
        held: dict[int, int] = {}
        try:
            if not again:
                opened = ((block, self._cache.open(self._place(name, block))) for block in wanted)
                held = {block: descriptor for block, descriptor in opened if descriptor is not None}
            fetched = self._fetch_blocks(name, [block for block in wanted if block not in held])
            found = [_part(part, held, fetched) for part in ranges]
        finally:
            for descriptor in held.values():
                os.close(descriptor)
        if all(len(content) == part.length for content, part in zip(found, ranges, strict=True)):
            return found
        if held:
            return self.read(name, ranges, again=True)
        raise EverestError(f"{self.address}/{name} is shorter than when it was packed; pack the set again")

    def fetch(self, name: str, wanted: FileSum) -> Path:
        file = self.settings.cache_folder / "whole" / f"{wanted.sha256}-{Path(name).name}"
        with locked(file.with_name(f".{file.name}.lock")):
            if not file.exists() or FileSum.of(file) != wanted:
                self._there(name, lambda: self._store.get(name, file))
                if FileSum.of(file) != wanted:
                    file.unlink()
                    raise EverestError(f"{self.address}/{name} is not as it was packed; pack the set again")
        return file

    def copy(self, name: str, file: Path) -> None:
        with suppress(FileNotFoundError):
            self._store.get(name, file)

    def sum(self, name: str) -> FileSum:
        def request() -> FileSum:
            found = self._store.client.get_object(Bucket=self._store.bucket, Key=self._store.prefix + name)
            digest, size = sha256(), 0
            for part in found["Body"].iter_chunks(_PART):
                digest.update(part)
                size += len(part)
            return FileSum(size, digest.hexdigest())

        return self._there(name, lambda: self._store.patiently(request))

    def alone(self, what: str) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            yield file
            self._store.patiently(lambda: self._store.put(file, name))

    def _fetch_blocks(self, name: str, blocks: list[int]) -> dict[int, memoryview]:
        """Neighbouring ones by one request, several requests at a time."""
        runs = [
            [block for _, block in run]
            for _, run in groupby(enumerate(blocks), lambda each: (each[1] - each[0], each[0] // _MOST_BLOCKS))
        ]
        if len(runs) < 2:
            return self._fetch_run(name, runs[0]) if runs else {}
        self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE)
        return dict(pair for run in self._pool.map(partial(self._fetch_run, name), runs) for pair in run.items())

    def _fetch_run(self, name: str, run: list[int]) -> dict[int, memoryview]:
        self.requests += 1
        content = memoryview(self._get(name, Range(run[0] * _BLOCK, len(run) * _BLOCK)))
        blocks = {block: content[place * _BLOCK : (place + 1) * _BLOCK] for place, block in enumerate(run)}
        self._cache.put({self._place(name, block): part for block, part in blocks.items()})
        return blocks

    def _get(self, name: str, part: Range) -> bytes:
        """As much of it as there is."""

        def request() -> bytes:
            found = self._store.client.get_object(
                Bucket=self._store.bucket,
                Key=self._store.prefix + name,
                Range=f"bytes={part.offset}-{part.offset + part.length - 1}",
            )
            return bytes(found["Body"].read())

        return self._there(name, lambda: self._store.patiently(request))

    def _there(self, name: str, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except FileNotFoundError:
            raise EverestError(f"{self.address}/{name} is missing; pack the set again") from None

    def _place(self, name: str, block: int) -> str:
        return f"{self._name}/{name}/{block:06d}"


def _part(part: Range, held: Mapping[int, int], fetched: Mapping[int, memoryview]) -> bytes:
    """From the blocks that are here, by file descriptors, and those that were fetched; as much of it as there is."""
    found = b""
    for block in _blocks_of(part):
        begin = max(0, part.offset - block * _BLOCK)
        end = min(_BLOCK, part.offset + part.length - block * _BLOCK)
        found += os.pread(held[block], end - begin, begin) if block in held else fetched[block][begin:end]
    return found


def _blocks_of(part: Range) -> range:
    return range(part.offset // _BLOCK, -(-(part.offset + part.length) // _BLOCK))


def _parts(address: str) -> tuple[str, str]:
    """Bucket and prefix. Raises UsageError."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    check_argument(f"{address}: bucket", bucket, Bucket)
    prefix = prefix.rstrip("/")
    if not all(part and part.isprintable() and part not in {".", ".."} for part in prefix.split("/")):
        raise UsageError(f"{address}: must be s3://BUCKET/PREFIX, with names between single /")
    return bucket, prefix
