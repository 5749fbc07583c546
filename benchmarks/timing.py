"""Seconds by the clock, and seconds of work."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import psutil
import torch


class Seconds(NamedTuple):
    """Of one run: by the clock (of the GPU, where there is one), and of this process's CPU time, over all threads."""

    wall: float
    cpu: float


def in_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, uncounted: int = 1
) -> dict[str, Seconds]:
    """Medians of the rounds, in each of which all run one after another, after some that do not count."""
    found: dict[str, list[Seconds]] = {name: [] for name in runs}
    for _ in range(uncounted + rounds):
        for name, run in runs.items():
            found[name].append(elapsed(run, device))
    return {
        name: Seconds(*(statistics.median(column) for column in zip(*times[uncounted:], strict=True)))
        for name, times in found.items()
    }


def elapsed(run: Callable[[], object], device: torch.device) -> Seconds:
    if device.type == "cuda":
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        cpu = time.process_time()
        began.record()
        run()
        ended.record()
        cpu = time.process_time() - cpu
        ended.synchronize()
        return Seconds(began.elapsed_time(ended) / 1e3, cpu)
    clock, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - clock, time.process_time() - cpu)


@contextmanager
def measured() -> Iterator[list[float]]:
    """CPU seconds of this process and all below it, also of those that end meanwhile, and seconds by the clock."""
    seconds: list[float] = []
    began, clock = _cpu_seconds(), time.perf_counter()
    yield seconds
    seconds += [_cpu_seconds() - began, time.perf_counter() - clock]


def _cpu_seconds() -> float:
    below = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(t.user + t.system + t.children_user + t.children_system for t in below)
