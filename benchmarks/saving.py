"""Seconds that a checkpoint stops training for, and that it takes in the background: ``python -m benchmarks.saving``.

Weights and AdamW's state of a whole pre-training model go to a folder. The first save also makes the memory that all
of them are copied to.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.case import Case
from everest.config import Experiment, Size
from everest.model.registry import pretrain_model
from everest.program import exit_code
from everest.training.checkpoint import Checkpoints
from everest.training.local import FolderStore
from everest.training.optim import build_optimizer


class Save(NamedTuple):
    """Seconds."""

    stopped_cpu: float  # of the step's thread
    stopped: float  # by the clock
    whole_cpu: float  # of all threads, until it is in the store
    whole: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["small", "base"], help="small, base, large or huge")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a network of the same kind in no time")
    options = parser.parse_args()
    sys.exit(exit_code("saving", lambda: _measure(options.sizes, options.rounds, options.tiny)))


def _measure(sizes: list[Size], rounds: int, tiny: bool) -> None:
    table = Table("model", "MB", "save", "stops, CPU s", "stops, s", "in all, CPU s", "in all, s")
    for size in sizes:
        experiment = Case("pretrain", size, tiny=tiny).experiment()
        with tempfile.TemporaryDirectory() as scratch:
            first, *later = _saves(experiment, rounds, Path(scratch))
            files = next(Path(scratch).glob("store/step-*")).iterdir()
            megabytes = sum(file.stat().st_size for file in files) / 1e6
        medians = Save(*map(statistics.median, zip(*later, strict=True)))
        for name, save in (("first", first), ("later", medians)):
            table.add_row(f"ViT {size}", f"{megabytes:.0f}", name, *(f"{seconds:.2f}" for seconds in save))
    Console(soft_wrap=True).print(table)


def _saves(experiment: Experiment, rounds: int, folder: Path) -> list[Save]:
    model = pretrain_model(experiment).to(machine.device())
    optimizer = build_optimizer(model, experiment.optim)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    saves = []
    with Checkpoints(FolderStore(folder / "store"), folder, keep=1) as checkpoints:
        for step in range(1 + rounds):
            began = time.thread_time(), time.perf_counter(), time.process_time(), time.perf_counter()
            checkpoints.save(step, model.state_dict(), {"optimizer": optimizer.state_dict()}, {})
            stopped = time.thread_time(), time.perf_counter()
            checkpoints.finish()
            ended = (*stopped, time.process_time(), time.perf_counter())
            saves.append(Save(*(end - begin for end, begin in zip(ended, began, strict=True))))
    return saves


if __name__ == "__main__":
    main()
