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
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import decord
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchcodec.decoders import VideoDecoder

from benchmarks.timing import measured
from benchmarks.videos import VIDEOS, in_s3, packed_set, readable
from everest.config import Experiment
from everest.data.index import VideoIndex, read_files
from everest.data.loader import TrainOrder, train_loader
from everest.data.reader.frames import frames, indexed
from everest.data.sampling import dense
from everest.program import exit_code

_FINETUNE, _PRETRAIN = 500, 2500  # clips/s of an H100 with ViT-B


class Pace(NamedTuple):
    pipeline: str
    clips_per_cpu_s: float
    clips_per_s: float


Run = Callable[[int], Iterator[int]]  # from the number of the round to clips made, the first of which do not count


@dataclass
class Sets:
    """The same videos: raw, packed in a folder, packed in S3."""

    raw: VideoIndex
    packed: VideoIndex
    remote: VideoIndex | None
    folder: Path
    quick: bool

    def pipeline(self, index: VideoIndex, stage: str, repeats: int = 1, workers: int = 0, batches: int = 6) -> Run:
        """To finished batches, by the way that training takes."""
        changes = {"stage": stage, "data.repeats": repeats, "data.workers": workers, "optim.batch_size": 8}
        config = Experiment().override({**changes, "data.sampling": "dense", "data.rate": 4})

        def run(number: int) -> Iterator[int]:
            changed = config.override({"seed": number, "optim.steps": 2 if self.quick else batches})
            order = TrainOrder(len(index.videos), changed)
            return (len(batch.frames) for batch in train_loader(index, changed, order))

        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="folder of real videos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="one round of a few batches: whether it works, not how fast"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--pretrain-rate", type=float, default=_PRETRAIN, help="clips/s of one GPU")
    parser.add_argument("--finetune-rate", type=float, default=_FINETUNE, help="clips/s of one GPU")
    sys.exit(exit_code("bench-data", lambda: _bench(parser.parse_args())))


def _bench(options: argparse.Namespace) -> None:
    rounds = range(1, 2) if options.quick else range(options.rounds + 1)  # the first, 0, does not count
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        listed = readable(options.videos, folder / "list.txt")
        remote = in_s3(listed, folder / "cache")
        sets = Sets(read_files(listed), packed_set(listed, str(folder / "packed")), remote, folder, options.quick)
        one = _paces(_on_one_core(sets), rounds)
        every = _paces(_on_all_cores(sets), rounds)
    _show(one, every, options)
    if options.json:
        options.json.write_text(json.dumps([pace._asdict() for pace in one], indent=1) + "\n")


def _on_one_core(sets: Sets) -> dict[str, Run]:
    files = [Path(video.name) for video in sets.raw.videos]
    found = {
        "pretrain packed x4": sets.pipeline(sets.packed, "pretrain", 4),
        "pretrain packed x1": sets.pipeline(sets.packed, "pretrain"),
    }
    if sets.remote:
        from_s3 = sets.pipeline(sets.remote, "pretrain")

        def empty(number: int) -> Iterator[int]:
            for clips in from_s3(number):
                yield clips
                with suppress(FileNotFoundError):
                    (sets.folder / "cache/blocks").rename(Path(tempfile.mkdtemp(dir=sets.folder)) / "blocks")

        def full(number: int) -> Iterator[int]:
            assert sum(from_s3(number))
            yield from from_s3(number)

        found |= {"pretrain S3 x1, cache full": full, "pretrain S3 x1, cache empty": empty}
    return found | {
        "finetune packed": sets.pipeline(sets.packed, "finetune"),
        "pretrain raw x1": sets.pipeline(sets.raw, "pretrain"),
        "exact reader bare": lambda number: _bare(files, number, _by_time),
        "decord bare": lambda number: _bare(files, number, _by_decord),
        "torchcodec bare": lambda number: _bare(files, number, _by_torchcodec),
        "finetune raw": sets.pipeline(sets.raw, "finetune"),
    }


def _on_all_cores(sets: Sets) -> dict[str, Run]:
    cores = len(os.sched_getaffinity(0))
    found = {
        "pretrain packed x4": sets.pipeline(sets.packed, "pretrain", 4, cores, 40),
        "pretrain packed x1": sets.pipeline(sets.packed, "pretrain", 1, cores, 40),
        "pretrain raw x1": sets.pipeline(sets.raw, "pretrain", 1, cores, 10),
        "finetune packed": sets.pipeline(sets.packed, "finetune", 1, cores, 30),
    }
    if sets.remote:
        found["pretrain S3 x1, cache full"] = sets.pipeline(sets.remote, "pretrain", 1, cores, 40)
    return found


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


def _paces(runs: dict[str, Run], rounds: range) -> list[Pace]:
    """Medians, all in turns, of all rounds but the one numbered 0."""
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for number in rounds:
        for name, run in runs.items():
            clips = iter(run(number))
            next(clips)
            with measured() as seconds:
                made = sum(clips)
            if number:
                cpu[name].append(made / seconds[0])
                wall[name].append(made / seconds[1])
    return [Pace(name, statistics.median(cpu[name]), statistics.median(wall[name])) for name in runs]


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
