"""Packed sets beside maintained formats: what a random clip costs, and what each notices (docs/packed-format.md).

Without adding these formats to the project's requirements::

    .venv/bin/uv run --no-project --python .venv/bin/python --with pylance --with litdata --with webdataset \
        python -m benchmarks.formats

Every format holds the very same JPEGs. A clip is 16 frames, every fourth, from a random place of a random video, read
from a folder by one core and not decoded. Rounds in turns, medians; CPU time of all threads; bytes as asked of the
system.
"""

import argparse
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, cast

import lance
import litdata
import numpy as np
import pyarrow as pa
import webdataset
from rich.console import Console
from rich.table import Table

from benchmarks.videos import VIDEOS, packed_set
from everest.data.index import read_index
from everest.data.packed.format import tar_of
from everest.data.packed.place import FileSum
from everest.data.packed.videos import PackedVideos
from everest.data.sampling import dense
from everest.errors import UsageError
from everest.program import exit_code

_GOOD = ("arm_wrestling.mp4", "dog.mp4", "flipping_a_pancake.mkv", "movie_scene.mp4", "part_0.mp4", "test.avi")
_COPIES = 4  # of each video in the set
_CLIPS, _ROUNDS = 40, 5

Read = Callable[[int, np.ndarray], list[bytes]]  # from a video and some of its frames to their JPEGs


class Format(NamedTuple):
    write: Callable[[Path], object]
    open: Callable[[Path], Read]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="folder of the clips")
    sys.exit(exit_code("bench-formats", lambda: _bench(parser.parse_args().videos)))


def _bench(videos: Path) -> None:
    if missing := [name for name in _GOOD if not (videos / name).is_file()]:
        raise UsageError(f"{videos} lacks {', '.join(missing)}; --videos names a folder that has them")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch  # in there LitData empties folders of common names
        folder = Path(scratch)
        listed = folder / "list.txt"
        listed.write_text("\n".join(str((videos / name).resolve()) for name in _GOOD * _COPIES))
        _pack(listed, folder / "jpegs")
        frames = list(_videos(folder / "jpegs"))
        formats = _formats(listed, frames, folder / "jpegs")
        for name, each in formats.items():
            each.write(folder / name)
            each.write(folder / f"{name} again")
        _show_costs(formats, folder, frames)
        _show_findings(formats, folder, frames)


def _formats(listed: Path, frames: list[list[bytes]], packed: Path) -> dict[str, Format]:
    first = [0, *accumulate(map(len, frames))]
    return {
        "tar and index": Format(partial(_pack, listed), _open_packed),
        "Lance": Format(partial(_write_lance, frames), partial(_open_lance, first)),
        "LitData": Format(partial(_write_litdata, packed), partial(_open_litdata, first)),
        "WebDataset": Format(partial(_write_webdataset, frames), _open_webdataset),
    }


def _pack(listed: Path, out: Path) -> None:
    """All videos in one shard, as 64 of a large set are."""
    packed_set(listed, str(out), shard_videos=64, workers=1)


def _videos(packed: Path) -> Iterator[list[bytes]]:
    """The JPEGs of each video, by Python's own tar reader."""
    found: dict[str, list[bytes]] = {}
    with tarfile.open(packed / tar_of(0)) as tar:
        for member in tar:
            if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                found.setdefault(member.name.split("/")[0], []).append(file.read())
    yield from found.values()


def _open_packed(folder: Path) -> Read:
    videos = cast(PackedVideos, read_index(folder).videos)
    return lambda video, wanted: videos[video]._jpegs(wanted)


def _write_lance(frames: list[list[bytes]], folder: Path) -> None:
    rows = [(video, number, jpeg) for video, jpegs in enumerate(frames) for number, jpeg in enumerate(jpegs)]
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), _LANCE, strict=True)]
    lance.write_dataset(pa.table(columns, names=["video", "frame", "jpeg"]), folder)


_LANCE = (pa.uint32(), pa.uint32(), pa.large_binary())


def _open_lance(first: list[int], folder: Path) -> Read:
    rows = lance.dataset(folder)
    return lambda video, wanted: rows.take((first[video] + wanted).tolist(), ["jpeg"])["jpeg"].to_pylist()


def _write_litdata(packed: Path, folder: Path) -> None:
    """One item a frame: that is the least which it can read."""
    litdata.optimize(_one_after_another, [str(packed)], str(folder), chunk_bytes="64MB", num_workers=1, verbose=False)


def _one_after_another(packed: str) -> Iterator[bytes]:
    for jpegs in _videos(Path(packed)):
        yield from jpegs


def _open_litdata(first: list[int], folder: Path) -> Read:
    items = litdata.StreamingDataset(str(folder))
    return lambda video, wanted: [items[first[video] + int(number)] for number in wanted]


def _write_webdataset(frames: list[list[bytes]], folder: Path) -> None:
    """One sample a video."""
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "00000.tar"), encoder=False, mtime=0) as tar:
        for video, jpegs in enumerate(frames):
            tar.write({"__key__": f"{video:07d}", **{f"{n:06d}.jpg": jpeg for n, jpeg in enumerate(jpegs)}})


def _samples(folder: Path) -> webdataset.WebDataset:
    return webdataset.WebDataset(str(folder / "00000.tar"), shardshuffle=False)


def _open_webdataset(folder: Path) -> Read:
    """It has no way to a place but to read up to it."""

    def read(video: int, wanted: np.ndarray) -> list[bytes]:
        sample = next(sample for sample in _samples(folder) if sample["__key__"] == f"{video:07d}")
        return [sample[f"{number:06d}.jpg"] for number in wanted]

    return read


def _show_costs(formats: dict[str, Format], folder: Path, frames: list[list[bytes]]) -> None:
    runs = {name: partial(_random_clips, each.open(folder / name), frames) for name, each in formats.items()}
    runs["WebDataset in its order"] = partial(_one_clip_a_sample, folder / "WebDataset")
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for number in range(_ROUNDS + 1):  # the first does not count
        for name, run in runs.items():
            began, before = time.process_time(), _bytes_read()
            clips = run(np.random.default_rng(number))
            spent, read = time.process_time() - began, _bytes_read() - before
            handed = sum(len(jpeg) for clip in clips for jpeg in clip)
            costs[name].append((spent / len(clips), read / len(clips), handed / len(clips)))
    jpegs = sum(len(jpeg) for video in frames for jpeg in video)
    table = Table("format", "CPU ms a clip", "MB read a clip", "size, of the JPEGs'")
    for name, found in costs.items():
        cpu, taken, clip = (statistics.median(column) for column in zip(*found[1:], strict=True))
        size = sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file()) / jpegs
        table.add_row(
            name,
            f"{cpu * 1e3:.2f}",
            f"{taken / 1e6:.2f}" if taken >= clip else "mapped",  # into memory: the system does not count it
            f"{size:.3f}" if size else "",
        )
    print(f"{len(frames)} videos, {sum(map(len, frames))} frames, {jpegs / 1e6:.1f} MB of JPEGs")
    print(f"lance {lance.__version__}, litdata {litdata.__version__}, webdataset {webdataset.__version__}")
    Console(soft_wrap=True).print(table)


def _random_clips(read: Read, frames: list[list[bytes]], dice: np.random.Generator) -> list[list[bytes]]:
    chosen = [int(video) for video in dice.integers(len(frames), size=_CLIPS)]
    return [read(video, _clip(len(frames[video]), dice)) for video in chosen]


def _one_clip_a_sample(folder: Path, dice: np.random.Generator) -> list[list[bytes]]:
    """Whole videos one after another: what it is made for."""
    clips = []
    for sample in _samples(folder):
        jpegs = [content for name, content in sample.items() if name.endswith(".jpg")]
        clips.append([jpegs[number] for number in _clip(len(jpegs), dice)])
    return clips


def _clip(total: int, dice: np.random.Generator) -> np.ndarray:
    return np.unique(dense(total, 16, 4, float(dice.random())))


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def _show_findings(formats: dict[str, Format], folder: Path, frames: list[list[bytes]]) -> None:
    expected = _random_clips(lambda video, wanted: [frames[video][n] for n in wanted], frames, np.random.default_rng(0))
    table = Table("format", "hands out what was written", "a damaged frame", "written twice")
    for name, each in formats.items():
        found = _random_clips(each.open(folder / name), frames, np.random.default_rng(0))
        again = folder / f"{name} again"
        twice = _difference(_sums(folder / name), _sums(again))
        damaged = "is noticed" if _notices(each, again, frames[1][8]) else "is handed out"
        table.add_row(name, "yes" if found == expected else "NO", damaged, twice)
    Console(soft_wrap=True).print(table)


def _sums(folder: Path) -> dict[str, FileSum]:
    return {str(file.relative_to(folder)): FileSum.of(file) for file in folder.rglob("*") if file.is_file()}


def _difference(one: dict[str, FileSum], other: dict[str, FileSum]) -> str:
    if one.keys() != other.keys():
        return "other files"
    return ", ".join(f"other {name}" for name in one if one[name] != other[name]) or "same bytes"


def _notices(written: Format, folder: Path, jpeg: bytes) -> bool:
    """Whether reading a frame with one wrong byte in its file ends in an error."""
    for file in folder.rglob("*"):
        if file.is_file() and (place := (content := file.read_bytes()).find(jpeg)) >= 0:
            place += len(jpeg) // 2
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    try:
        found = written.open(folder)(1, np.array([8]))
    except Exception:
        return True
    if found == [jpeg]:
        raise AssertionError(f"{folder.name}: the frame was not found to be damaged")
    return False


if __name__ == "__main__":
    main()
