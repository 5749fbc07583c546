"""What a random clip costs from S3 with nothing kept here, and what becomes of clips while the server is away."""

import os
import threading
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.formats.clips import as_written, random_clips
from benchmarks.formats.each import Format, s3
from benchmarks.videos import BUCKET, s3_server
from tests.s3_proxy import S3Proxy

_CLIPS = 10
_OUTAGES_S = (5, 60)
_LONGEST_S = 60  # that reading may take once the server is back


def show(formats: dict[str, Format], folder: Path, frames: list[list[bytes]]) -> None:
    """As they are in ``folder``; nothing where there is no S3 server."""
    server = s3_server()
    if server is None:
        return
    away = [f"server away for {seconds} s" for seconds in _OUTAGES_S]
    table = Table("from S3", "requests a clip", "MB a clip", *away)
    for name, each in formats.items():
        os.environ["EVEREST_S3_ENDPOINT"] = server
        address = f"s3://{BUCKET}/bench/{os.getpid()}/{name.replace(' ', '-')}"
        _upload(folder / name, address)
        proxy = S3Proxy(server)
        os.environ["EVEREST_S3_ENDPOINT"] = proxy.address
        table.add_row(
            name, *_costs(proxy, each, address, frames), *(_outage(proxy, each, address, frames, s) for s in _OUTAGES_S)
        )
        proxy.close()
    Console(soft_wrap=True).print(table)


def _upload(folder: Path, address: str) -> None:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    for file in folder.rglob("*"):
        if file.is_file():
            s3().upload_file(str(file), bucket, f"{prefix}/{file.relative_to(folder)}")


def _costs(proxy: S3Proxy, each: Format, address: str, frames: list[list[bytes]]) -> tuple[str, str]:
    """Beyond opening it."""
    read, taken = each.open(address), 0

    def counted(_: str, content: bytes) -> bytes:
        nonlocal taken
        taken += len(content)
        return content

    proxy.asked.clear()
    proxy.spoil = counted
    found = random_clips(read, frames, _CLIPS, np.random.default_rng(0))
    assert found == random_clips(as_written(frames), frames, _CLIPS, np.random.default_rng(0))
    return f"{proxy.asked.total() / _CLIPS:.1f}", f"{taken / _CLIPS / 1e6:.2f}"


def _outage(proxy: S3Proxy, each: Format, address: str, frames: list[list[bytes]], seconds: int) -> str:
    """What reading ends with where the server is away from before its first clip."""
    read, began, said = each.open(address), time.monotonic(), []

    def attempt() -> None:
        try:
            found = random_clips(read, frames, _CLIPS, np.random.default_rng(seconds))
        except Exception as error:
            said.append(f"{type(error).__name__} after {time.monotonic() - began:.0f} s")
        else:
            expected = random_clips(as_written(frames), frames, _CLIPS, np.random.default_rng(seconds))
            said.append("is waited for" if found == expected else "OTHER FRAMES")

    proxy.away.set()
    threading.Timer(seconds, proxy.away.clear).start()
    reading = threading.Thread(target=attempt, daemon=True)
    reading.start()
    reading.join(seconds + _LONGEST_S)
    while proxy.away.is_set():
        time.sleep(0.1)
    return said[0] if said else f"nothing {_LONGEST_S} s after it is back"
