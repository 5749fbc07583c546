"""Packed sets in a real S3 server: the same clips as from a folder, through a cache that nothing spoils."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everest.config import Experiment
from everest.data.clips import TrainClips
from everest.data.index import VideoIndex, read_index, read_packed
from everest.data.packed.check import verdicts
from everest.data.packed.manifest import read_manifest
from everest.data.packed.videos import PackedVideos
from everest.errors import EverestError, UsageError
from orchestration.block_cache import BlockCache
from orchestration.outbox import Away
from orchestration.s3 import S3Store
from orchestration.s3_place import S3Place
from orchestration.settings import PlatformSettings
from tests.conftest import pack, tiny
from tests.integration.command import Run
from tests.s3_proxy import S3Proxy
from tests.services import HANGS_S, s3_settings

PackedIndex = VideoIndex[PackedVideos]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PlatformSettings:
    return s3_settings(monkeypatch, proxy.address, cache=tmp_path / "cache")


@pytest.fixture
def address(settings: PlatformSettings) -> str:
    return f"s3://{settings.s3_bucket}/{settings.s3_prefix}/set"


@pytest.fixture
def remote(synthetic: Path, settings: PlatformSettings, address: str, monkeypatch: pytest.MonkeyPatch) -> PackedIndex:
    """The synthetic training set, packed into S3."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EVEREST_CACHE", str(settings.cache))
    pack(synthetic / "train.csv", address)
    return read_packed(address)


@pytest.fixture
def local(synthetic: Path, tmp_path: Path) -> PackedIndex:
    pack(synthetic / "train.csv", tmp_path / "local")
    return read_packed(tmp_path / "local")


def config() -> Experiment:
    return tiny("pretrain", Path())


def clips(index: PackedIndex, epochs: int = 2) -> list[torch.Tensor]:
    dataset = TrainClips(index, config())
    videos = range(len(index.videos))
    return [clip for epoch in range(epochs) for video in videos for clip in dataset[epoch, video].frames]


def damaged(index: PackedIndex) -> list[str]:
    place = index.videos.place
    return [verdict.path for verdict in verdicts(place, read_manifest(place), 2) if verdict.unreadable]


def test_clips_and_digest_are_those_of_a_folder(remote: PackedIndex, local: PackedIndex, proxy: S3Proxy) -> None:
    assert remote.digest() == local.digest()
    assert all(torch.equal(*pair) for pair in zip(clips(remote), clips(local), strict=True))
    asked = proxy.asked["GetObject"]
    clips(remote)
    assert proxy.asked["GetObject"] == asked  # all of it is here now
    assert not [
        verdict
        for verdict in verdicts(remote.videos.place, read_manifest(remote.videos.place), 2)
        if verdict.unreadable
    ]


def test_what_several_clips_need_is_read_at_the_same_time(remote: PackedIndex, proxy: S3Proxy) -> None:
    proxy.slow_s, proxy.most_at_once = 0.2, 0
    brought = TrainClips(remote, config()).__getitems__([(0, video) for video in range(4)])
    assert proxy.most_at_once >= 3
    proxy.slow_s = 0
    alone = [TrainClips(remote, config())[0, video] for video in range(4)]
    assert all(torch.equal(ours.frames[0], theirs.frames[0]) for ours, theirs in zip(brought, alone, strict=True))


def test_an_outage_is_waited_for(remote: PackedIndex, local: PackedIndex, proxy: S3Proxy) -> None:
    proxy.away.set()
    threading.Timer(3, proxy.away.clear).start()
    assert all(torch.equal(*pair) for pair in zip(clips(remote, 1), clips(local, 1), strict=True))


def test_an_outage_longer_than_the_patience_is_one_line(
    remote: PackedIndex, settings: PlatformSettings, address: str, proxy: S3Proxy
) -> None:
    proxy.away.set()
    impatient = S3Place(address, settings.model_copy(update={"patience_s": 1}))
    with pytest.raises(Away, match=r"/set/ was not reached in \d+ s: "):
        impatient.text("manifest.json")


def test_what_comes_damaged_is_fetched_again_and_never_given_out(
    remote: PackedIndex, local: PackedIndex, proxy: S3Proxy
) -> None:
    left = {"tar": 2}

    def spoil(key: str, content: bytes) -> bytes:
        if key.endswith(".tar") and left["tar"]:
            left["tar"] -= 1
            return bytes(byte ^ 1 for byte in content)
        return content

    proxy.spoil = spoil
    assert all(torch.equal(*pair) for pair in zip(clips(remote), clips(local), strict=True))
    assert left == {"tar": 0}


def test_a_changed_or_missing_shard_is_one_line(remote: PackedIndex, settings: PlatformSettings, address: str) -> None:
    files = S3Place(address, settings)
    with files.writing("shards/00003.tar") as file:
        file.write_bytes(b"other" * 10_000)
    with pytest.raises(EverestError, match=r"set/shards/00003.tar: frames of .*mp4 are not those that were packed"):
        clips(remote)
    assert [
        verdict.path
        for verdict in verdicts(remote.videos.place, read_manifest(remote.videos.place), 2)
        if verdict.unreadable
    ] == ["shards/00003.tar"]
    store(settings).delete("set/shards/00003.tar")
    remove(settings.cache_folder / "blocks")
    with pytest.raises(EverestError, match=r"set/shards/00003.tar is missing; pack the set again"):
        clips(remote)


def store(settings: PlatformSettings) -> S3Store:
    return S3Store(settings.model_copy(update={"s3_prefix": ""}), settings.s3_prefix)


def remove(folder: Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


def test_a_spoiled_copy_is_replaced(remote: PackedIndex, local: PackedIndex, settings: PlatformSettings) -> None:
    clips(remote)
    spoiled = [file for file in (settings.cache_folder / "blocks").rglob("*") if file.name.isdecimal()]
    for number, file in enumerate(spoiled):
        file.write_bytes(file.read_bytes()[:-1000] if number % 2 else bytes(file.stat().st_size))
    assert all(torch.equal(*pair) for pair in zip(clips(remote), clips(local), strict=True))


def test_nothing_that_is_no_packed_set_is_read(
    settings: PlatformSettings, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"is no packed set; everest data pack LIST s3://.*/set makes one"):
        read_index(address)
    for wrong in (
        "s3://bucket",
        "s3://bucket/",
        "s3://",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://BUCKET/b",
        "gs://b/c",
    ):
        with pytest.raises(UsageError, match=wrong.partition(":")[0]):
            read_index(wrong)


_FILL = """
import sys
from pathlib import Path
from orchestration.block_cache import BlockCache
cache = BlockCache(Path(sys.argv[1]), 1_000_000)
number = int(sys.argv[2])
while True:
    number += 7
    cache.put({f"a/{number % 500}": bytes([number % 251]) * 20_000})
"""


def test_the_cache_keeps_its_limit_whoever_is_killed(tmp_path: Path) -> None:
    """Four processes write ten times the limit; some are killed on the way."""
    cache = BlockCache(tmp_path / "cache", 1_000_000)
    for _ in range(3):
        processes = [
            subprocess.Popen([sys.executable, "-c", _FILL, str(tmp_path / "cache"), str(n)], cwd=ROOT) for n in range(4)
        ]
        until, largest = time.monotonic() + 1.5, 0
        while time.monotonic() < until:
            largest = max(largest, sum(block_sizes(tmp_path / "cache")))
        for process in processes:
            process.kill()
            process.wait(HANGS_S)
        assert largest <= 1_000_000
    for number in range(500):
        if (descriptor := cache.open(f"a/{number}")) is not None:
            content = os.read(descriptor, 30_000)
            os.close(descriptor)
            assert len(content) == 20_000
            assert len(set(content)) == 1
    assert sum(block_sizes(tmp_path / "cache")) > 500_000


def block_sizes(folder: Path) -> Iterator[int]:
    for file in folder.rglob("*"):
        try:
            if file.is_file() and file.name not in {".used", ".lock"}:
                yield file.stat().st_size
        except FileNotFoundError:
            continue


def test_the_blocks_used_longest_ago_make_room(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    for number in range(9):
        cache.put({str(number): bytes(100)})
        os.utime(tmp_path / str(number), (number, number))
    assert cache.open("0") is not None  # now it is the newest
    cache.put({"9": bytes(200)})
    kept = [number for number in range(10) if (tmp_path / str(number)).exists()]
    assert kept == [0, 3, 4, 5, 6, 7, 8, 9]
    cache.put({"large": bytes(2000)})
    assert not (tmp_path / "large").exists()


def test_a_list_or_folder_in_s3_is_packed_with_the_videos_beside_it(
    synthetic: Path, settings: PlatformSettings, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    raw = S3Place(f"{address}-raw", settings)
    for file in [synthetic / "train.csv", synthetic / "classes.txt", *sorted((synthetic / "videos").iterdir())[:16]]:
        with raw.writing(str(file.relative_to(synthetic))) as part:
            part.write_bytes(file.read_bytes())
    pack(f"{address}-raw/train.csv", tmp_path / "from-s3")
    pack(synthetic / "train.csv", tmp_path / "from-here")
    ours, theirs = read_packed(tmp_path / "from-s3"), read_packed(tmp_path / "from-here")
    assert ours.classes == theirs.classes
    assert [(video.name, video.label) for video in ours.videos] == [
        (video.name, video.label) for video in theirs.videos
    ]
    assert all(torch.equal(*pair) for pair in zip(clips(ours), clips(theirs), strict=True))
    pack(f"{address}-raw/videos/", tmp_path / "folder")
    assert [video.name for video in read_packed(tmp_path / "folder").videos] == [f"{n:05d}.mp4" for n in range(16)]
    with pytest.raises(UsageError, match=r"-raw/none.csv does not exist; give the address of a list"):
        pack(f"{address}-raw/none.csv", tmp_path / "none")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_learns_from_s3_and_is_killed_in_mid_epoch_ends_as_one_from_a_folder(
    remote: PackedIndex, local: PackedIndex, synthetic: Path, tmp_path: Path, settings: PlatformSettings, processes: int
) -> None:
    """Its cache is cold each time, and too small for the set."""
    address = str(remote.source)
    there = settings.model_copy(update={"cache_size": "1k"}).environment()
    changes = {"data.val": None, "optim.steps": 24, "optim.batch_size": 2, "data.workers": 2 - processes}
    changes |= {"optim.micro_batch": 2 // processes}
    config = tiny("pretrain", synthetic, **changes, **{"keep.checkpoint_steps": 4, "keep.log_steps": 1})
    whole = Run(config.override({"data.train": local.source}), tmp_path / "whole", processes)
    killed = Run(config.override({"data.train": address}), tmp_path / "killed", processes, **there)
    killed.wait_for_step(9)
    killed.kill(signal.SIGKILL)
    assert not (killed.folder / "result.json").exists()
    remove(tmp_path / "cache/blocks")
    assert Run(config.override({"data.train": address}), tmp_path / "killed", processes, **there).wait() == 0
    assert whole.wait() == 0
    expected, found = (load_file(run.folder / "model/model.safetensors") for run in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
