"""What longer and larger clips cost."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from benchmarks.case import Case
from benchmarks.memory import peak_bytes, saved_bytes
from benchmarks.sides import ours
from benchmarks.timing import in_turns
from everest.training.distributed import Process


def longer(case: Case, frames: Iterable[int], sizes: Iterable[int]) -> Iterator[Case]:
    """The case at each number of frames, then at each other size of picture."""
    for number in frames:
        yield replace(case, frames=number)
    for size in sizes:
        if size != case.image_size:
            yield replace(case, image_size=size)


def cost_of(case: Case, rounds: int, device: torch.device) -> dict[str, object]:
    """Seconds, kept megabytes and the most megabytes at once, but where it does not fit into the device's memory."""
    found: dict[str, object] = case.named | {
        "batch": case.batch,
        "frames": case.frames,
        "image_size": case.image_size,
    }
    try:
        side = ours(case, Process(0, 1, device))
        seconds = in_turns({"ours": side.step}, rounds, device)["ours"]
        found |= {
            "seconds_per_clip": seconds.wall / case.batch,
            "cpu_seconds_per_clip": seconds.cpu / case.batch,
            "saved_mb_per_clip": saved_bytes(side.forward, side.model) / case.batch / 1e6,
            "peak_mb": peak_bytes(side.step, device) / 1e6,
        }
    except torch.cuda.OutOfMemoryError:
        found["out_of_memory"] = True
    return found
