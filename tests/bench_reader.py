"""Clips a second and core of the reader, beside bare decord: ``python -m tests.bench_reader VIDEO…``.

A clip is 16 frames, every fourth, from a random place, the shorter side 256 pixels. In turns; CPU time of this
process and the reader's.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import decord
import numpy as np
import psutil

from everest.data.decode import decode
from everest.data.sampling import dense

_CLIPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for video in options.videos:
        height, width = decode(video, 256, lambda total: np.zeros(1, int)).shape[1:3]
        readers: dict[str, Callable[[np.random.Generator], object]] = {
            "reader": lambda rng, video=video: decode(video, 256, lambda total: clip(total, rng)),  # type: ignore[misc]
            "decord": lambda rng, video=video, size=(width, height): bare(video, size, rng),  # type: ignore[misc]
        }
        pace: dict[str, list[float]] = {name: [] for name in readers}
        for seed in range(options.rounds):
            for name, read in readers.items():
                rng, began = np.random.default_rng(seed), cpu_seconds()
                for _ in range(_CLIPS):
                    read(rng)
                pace[name].append(_CLIPS / (cpu_seconds() - began))
        print(video.name, *(f"{name} {statistics.median(all_of):.1f} clips/s" for name, all_of in pace.items()))


def clip(total: int, rng: np.random.Generator) -> np.ndarray:
    return dense(total, 16, 4, float(rng.random()))


def bare(video: Path, size: tuple[int, int], rng: np.random.Generator) -> object:
    reader = decord.VideoReader(str(video), width=size[0], height=size[1], num_threads=1)
    return reader.get_batch(clip(len(reader), rng).tolist()).asnumpy()


def cpu_seconds() -> float:
    children = [child.cpu_times() for child in psutil.Process().children()]
    return time.process_time() + sum(times.user + times.system for times in children)


if __name__ == "__main__":
    main()
