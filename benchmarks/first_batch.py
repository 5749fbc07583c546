"""Seconds from a start to the first batch: ``python -m benchmarks.first_batch``.

The batches of the recipe ucf101-pretrain, from raw videos and from a packed set, by one process and by two of one
machine, which share its cores. Each process imports what a run does while the decoding workers' server starts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.videos import VIDEOS, packed_set, readable
from everest.config import Experiment
from everest.data.workers import start_early, worker_count
from everest.errors import EverestError
from everest.program import exit_code


class Start(NamedTuple):
    """Of one process: its decoding workers, and seconds that came one after the other."""

    workers: int
    imports: float
    first: float
    second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="folder of real videos")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--source", help=argparse.SUPPRESS)  # of a process that is measured
    options = parser.parse_args()
    if options.source:
        print(json.dumps(_start(options.source)))
    else:
        sys.exit(exit_code("first-batch", lambda: _measure(options.videos, options.processes)))


def _measure(videos: Path, processes: list[int]) -> None:
    table = Table("videos", "processes", "workers each", "imports, s", "first batch, s", "next batch, s")
    with tempfile.TemporaryDirectory() as scratch:
        listed, packed = readable(videos, Path(scratch) / "list.txt"), Path(scratch) / "packed"
        packed_set(listed, str(packed))
        for name, source in (("packed", packed), ("raw", listed)):
            for world in processes:
                starts = _starts(source, world)
                workers, *seconds = (max(column) for column in zip(*starts, strict=True))  # the slowest process's
                table.add_row(name, str(world), str(workers), *(f"{taken:.1f}" for taken in seconds))
    Console(soft_wrap=True).print(table)


def _starts(source: Path, world: int) -> list[Start]:
    command = [sys.executable, "-m", "benchmarks.first_batch", "--source", str(source)]
    ranks = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    begun = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **ranks, "RANK": str(rank)})
        for rank in range(world)
    ]
    said = [process.communicate()[0] for process in begun]
    if any(process.returncode for process in begun):
        raise EverestError(f"reading {source} failed; what was said is above")
    return [Start(*json.loads(line)) for line in said]


def _start(source: str) -> Start:
    config = Experiment.load("ucf101-pretrain")
    start_early(config)
    import everest.training.run  # noqa: F401
    from everest.data.index import read_index
    from everest.data.loader import TrainOrder, train_loader

    imported = time.time()
    index = read_index(source)
    order = TrainOrder(len(index.videos), config, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    batches = iter(train_loader(index, config, order))
    next(batches)
    first = time.time()
    next(batches)
    began = psutil.Process().create_time()
    return Start(worker_count(config.data.workers), imported - began, first - imported, time.time() - first)


if __name__ == "__main__":
    main()
