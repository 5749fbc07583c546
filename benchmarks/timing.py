"""Seconds by the clock, and seconds of work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


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
