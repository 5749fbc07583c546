"""What a random clip costs from a folder: rounds in turns, medians; CPU time of all threads; bytes as asked of the
system."""

import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.formats.clips import clip, random_clips
from benchmarks.formats.each import Format, samples

_CLIPS, _ROUNDS = 40, 5


def show(formats: dict[str, Format], folder: Path, frames: list[list[bytes]]) -> None:
    runs = {
        name: partial(random_clips, each.open(str(folder / name)), frames, _CLIPS) for name, each in formats.items()
    }
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
    table = Table("from a folder", "CPU ms a clip", "MB read a clip", "size, of the JPEGs'")
    for name, found in costs.items():
        cpu, taken, handed = (statistics.median(column) for column in zip(*found[1:], strict=True))
        size = sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file()) / jpegs
        table.add_row(
            name,
            f"{cpu * 1e3:.2f}",
            f"{taken / 1e6:.2f}" if taken >= handed else "mapped",  # into memory: the system does not count it
            f"{size:.3f}" if size else "",
        )
    Console(soft_wrap=True).print(table)


def _one_clip_a_sample(folder: Path, dice: np.random.Generator) -> list[list[bytes]]:
    """Whole videos one after another: what it is made for."""
    clips = []
    for sample in samples(str(folder)):
        jpegs = [content for name, content in sample.items() if name.endswith(".jpg")]
        clips.append([jpegs[number] for number in clip(len(jpegs), dice)])
    return clips


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])
