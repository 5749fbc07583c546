"""Clips a second from videos to finished batches, beside bare decoders, in one run: ``make bench-data``.

A clip is 16 frames at rate 4, 224 x 224, uint8. One core: one process and its reader, CPU time and wall time, all
pipelines in turns, medians of the rounds. All cores: the decoding workers that a run would have.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import av
import decord
import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torchcodec.decoders import VideoDecoder

from everest.config import Experiment
from everest.data.index import VideoIndex, read_files, read_index
from everest.data.loader import TrainOrder, train_loader
from everest.data.packed.pack import Packing, Part, how_to_pack
from everest.data.packed.place import place_at
from everest.data.packed.source import source_at
from everest.data.reader.frames import frames, indexed
from everest.data.sampling import dense
from everest.errors import UsageError
from everest.program import exit_code
from tests.conftest import SHARED
from tests.services import BUCKET, KEYS, S3, answers

_FINETUNE, _PRETRAIN = 500, 2500  # clips/s of an H100 with ViT-B
_S3_SET = f"s3://{BUCKET}/bench/{os.getpid()}"


class Pace(NamedTuple):
    pipeline: str
    clips_per_cpu_s: float
    clips_per_s: float


Run = Callable[[int], Iterator[int]]  # from the number of the round to clips made, the first of which do not count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    videos = Path(os.environ.get("EVEREST_TEST_CLIPS", SHARED / "clips"))
    parser.add_argument("--videos", type=Path, default=videos, help="folder of real videos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--pretrain-rate", type=float, default=_PRETRAIN, help="clips/s of one GPU")
    parser.add_argument("--finetune-rate", type=float, default=_FINETUNE, help="clips/s of one GPU")
    sys.exit(exit_code("bench-data", lambda: _bench(parser.parse_args())))


def _bench(options: argparse.Namespace) -> None:
    if not options.videos.is_dir():
        raise UsageError(f"{options.videos} is no folder of videos; make bench-data VIDEOS=folder names one")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        listed = _readable(options.videos, folder / "list.txt")
        raw, packed = read_files(listed), _packed(listed, str(folder / "packed"))
        remote = _in_s3(listed, folder)
        one = _paces(_on_one_core(raw, packed, remote, folder), options.rounds)
        every = _paces(_on_all_cores(raw, packed, remote), options.rounds)
    _show(one, every, options)
    if options.json:
        options.json.write_text(json.dumps([pace._asdict() for pace in one], indent=1) + "\n")


def _readable(videos: Path, listed: Path) -> Path:
    """A list of those that are long enough to be sampled."""
    found = []
    for file in sorted(videos.iterdir()):
        try:
            with av.open(str(file)) as container:
                if sum(1 for _ in container.decode(video=0)) >= 32:
                    found.append(str(file.resolve()))
        except (av.FFmpegError, IndexError, OSError):
            continue
    if not found:
        raise UsageError(f"{videos} has no video of 32 frames or more")
    listed.write_text("\n".join(found))
    return listed


def _packed(listed: Path, out: str) -> VideoIndex:
    with source_at(str(listed), None) as source:
        packing = Packing(source, how_to_pack(source.index), place_at(out), Part(), 0.0, time_limit=600)
        packing.begin()
        packing.pack(os.cpu_count() or 1)
        packing.finish()
    return read_index(out)


def _in_s3(listed: Path, folder: Path) -> VideoIndex | None:
    if not answers(S3):
        print(f"no S3 server at {S3} (EVEREST_TEST_S3): S3 is left out", file=sys.stderr)
        return None
    os.environ |= {name: os.environ.get(name, value) for name, value in KEYS.items()}
    os.environ |= {"EVEREST_S3_ENDPOINT": S3, "EVEREST_CACHE": str(folder / "cache")}
    return _packed(listed, _S3_SET)


def _on_one_core(raw: VideoIndex, packed: VideoIndex, remote: VideoIndex | None, folder: Path) -> dict[str, Run]:
    files = [Path(video.name) for video in raw.videos]
    found = {
        "pretrain packed x4": _pipeline(packed, _experiment("pretrain", 4)),
        "pretrain packed x1": _pipeline(packed, _experiment("pretrain", 1)),
    }
    if remote:
        from_s3 = _pipeline(remote, _experiment("pretrain", 1))

        def empty(number: int) -> Iterator[int]:
            for clips in from_s3(number):
                yield clips
                with suppress(FileNotFoundError):
                    (folder / "cache/blocks").rename(Path(tempfile.mkdtemp(dir=folder)) / "blocks")

        def full(number: int) -> Iterator[int]:
            assert sum(from_s3(number))
            yield from from_s3(number)

        found |= {"pretrain S3 x1, cache full": full, "pretrain S3 x1, cache empty": empty}
    return found | {
        "finetune packed": _pipeline(packed, _experiment("finetune", 1)),
        "pretrain raw x1": _pipeline(raw, _experiment("pretrain", 1)),
        "exact reader bare": lambda number: _bare(files, number, _by_time),
        "decord bare": lambda number: _bare(files, number, _by_decord),
        "torchcodec bare": lambda number: _bare(files, number, _by_torchcodec),
        "finetune raw": _pipeline(raw, _experiment("finetune", 1)),
    }


def _on_all_cores(raw: VideoIndex, packed: VideoIndex, remote: VideoIndex | None) -> dict[str, Run]:
    cores = len(os.sched_getaffinity(0))
    found = {
        "pretrain packed x4": _pipeline(packed, _experiment("pretrain", 4, cores), 40),
        "pretrain packed x1": _pipeline(packed, _experiment("pretrain", 1, cores), 40),
        "pretrain raw x1": _pipeline(raw, _experiment("pretrain", 1, cores), 10),
        "finetune packed": _pipeline(packed, _experiment("finetune", 1, cores), 30),
    }
    if remote:
        found["pretrain S3 x1, cache full"] = _pipeline(remote, _experiment("pretrain", 1, cores), 40)
    return found


def _experiment(stage: str, repeats: int, workers: int = 0) -> Experiment:
    changes = {"stage": stage, "data.repeats": repeats, "data.workers": workers, "optim.batch_size": 8}
    return Experiment().override({**changes, "data.sampling": "dense", "data.rate": 4})


def _pipeline(index: VideoIndex, config: Experiment, batches: int = 6) -> Run:
    """To finished batches, by the way that training takes."""

    def run(number: int) -> Iterator[int]:
        changed = config.override({"seed": number, "optim.steps": batches})
        order = TrainOrder(len(index.videos), changed)
        return (len(batch.frames) for batch in train_loader(index, changed, order))

    return run


def _bare(files: list[Path], number: int, read: Callable[[Path, Callable[[int], list[int]]], object]) -> Iterator[int]:
    """A clip's frames of every video, decoded to RGB and nothing else."""
    dice = np.random.default_rng(number)
    for file in [files[0], *files, *files]:
        read(file, lambda total: dense(total, 16, 4, float(dice.random())).tolist())
        yield 1


def _by_time(file: Path, choose: Callable[[int], list[int]]) -> object:
    """As ``everest`` finds frames, without a process of its own; from the start where packets do not tell enough."""
    with indexed(file) as (stream, source, found):
        if found is not None:
            wanted = sorted(set(choose(len(found))))
            return [frame.to_ndarray(format="rgb24") for frame in frames(stream, source, found, wanted)]
    with av.open(str(file)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        held = list(container.decode(video=0))
        return [held[number].to_ndarray(format="rgb24") for number in choose(len(held))]


def _by_decord(file: Path, choose: Callable[[int], list[int]]) -> object:
    reader = decord.VideoReader(str(file), num_threads=1)
    return reader.get_batch(choose(len(reader))).asnumpy()


def _by_torchcodec(file: Path, choose: Callable[[int], list[int]]) -> object:
    decoder = VideoDecoder(str(file), seek_mode="exact", num_ffmpeg_threads=1)
    return decoder.get_frames_at(choose(len(decoder))).data


def _paces(runs: dict[str, Run], rounds: int) -> list[Pace]:
    """Medians, all in turns, after one round that does not count."""
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            clips = iter(run(number))
            next(clips)
            with _measured() as seconds:
                made = sum(clips)
            if number:
                cpu[name].append(made / seconds[0])
                wall[name].append(made / seconds[1])
    return [Pace(name, statistics.median(cpu[name]), statistics.median(wall[name])) for name in runs]


@contextmanager
def _measured() -> Iterator[list[float]]:
    """CPU seconds of this process and all below it, also of those that end meanwhile, and seconds by the clock."""
    seconds: list[float] = []
    began, clock = _cpu_seconds(), time.perf_counter()
    yield seconds
    seconds += [_cpu_seconds() - began, time.perf_counter() - clock]


def _cpu_seconds() -> float:
    below = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(t.user + t.system + t.children_user + t.children_system for t in below)


def _show(one: list[Pace], every: list[Pace], options: argparse.Namespace) -> None:
    cores = len(os.sched_getaffinity(0))
    table = Table("pipeline", "clips/s of CPU time", "clips/s by the clock", title=f"one core of {cores}")
    for pace in one:
        table.add_row(pace.pipeline, f"{pace.clips_per_cpu_s:.1f}", f"{pace.clips_per_s:.1f}")
    Console(soft_wrap=True).print(table)
    table = Table("pipeline", "clips/s by the clock", title=f"all {cores} cores")
    for pace in every:
        table.add_row(pace.pipeline, f"{pace.clips_per_s:.1f}")
    Console(soft_wrap=True).print(table)
    cpu = {pace.pipeline: pace.clips_per_cpu_s for pace in one}
    for rate, name in ((options.pretrain_rate, "pretrain packed x4"), (options.finetune_rate, "finetune packed")):
        print(f"A GPU that takes {rate:g} clips/s needs {rate / cpu[name]:.1f} cores like this one ({name}).")
    raw = cpu["pretrain raw x1"] / cpu["exact reader bare"]
    print(f"Raw video to finished clips takes {raw:.2f} of the pace of the exact reader's bare decoding.")
    for kind in ("empty", "full"):
        if (name := f"pretrain S3 x1, cache {kind}") in cpu:
            print(f"S3 with its cache {kind}: {cpu[name] / cpu['pretrain packed x1']:.0%} of a folder's pace.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
