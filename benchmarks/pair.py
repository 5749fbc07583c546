"""Our step and theirs, in turns."""

from collections.abc import Callable

import torch

from benchmarks.case import Case
from benchmarks.machine import peak
from benchmarks.memory import peak_bytes, saved_bytes
from benchmarks.products import Products
from benchmarks.sides import Side, ours, theirs
from benchmarks.timing import Seconds, in_turns
from benchmarks.waits import waits_of
from everest.training.distributed import Process
from everest.training.hardware import utilisation

OURS, THEIRS, PRODUCTS = "ours", "theirs", "products"


def compared(case: Case, rounds: int, device: torch.device) -> dict[str, object]:
    """A row of the table: seconds of a step of each side and of our bare matrix products, and what each keeps."""
    our, their = ours(case, Process(0, 1, device)), theirs(case, device)
    with torch.compiler.set_stance("force_eager"):  # compiled code shows no single products
        products = Products(our.step, device)
    runs: dict[str, Callable[[], object]] = {OURS: our.step, THEIRS: their.step, PRODUCTS: products.run}
    row: dict[str, object] = case.named | {"compiled": case.compiled, "batch": case.batch}
    uncounted = 3 if case.compiled or device.type == "cuda" else 1  # what is compiled, or chosen by trying
    try:
        seconds = in_turns(runs, rounds, device, uncounted)
    except torch.cuda.OutOfMemoryError:  # theirs needs more
        row["theirs_out_of_memory"] = True
        del their, runs[THEIRS]
        torch.cuda.empty_cache()
        seconds = in_turns(runs, rounds, device, uncounted)
    for name, each in seconds.items():
        row |= {f"{name}_s": each.wall, f"{name}_cpu_s": each.cpu}
    row["clips_per_s"] = case.batch / seconds[OURS].wall
    row["products_share"] = _work(seconds[PRODUCTS], device) / _work(seconds[OURS], device)
    row |= _memory(OURS, our, device)
    if THEIRS in runs:
        row["times_faster"] = seconds[THEIRS].wall / seconds[OURS].wall
        row["times_less_cpu"] = seconds[THEIRS].cpu / seconds[OURS].cpu
        row |= _memory(THEIRS, their, device)
    if device.type == "cuda":
        row["waits"] = waits_of(our.step)
    if most := peak(device):
        possible = 1e12 * getattr(most, case.precision)
        row["mfu"] = utilisation(products.flops, 1 / seconds[OURS].wall, possible)
    return row


def _work(seconds: Seconds, device: torch.device) -> float:
    """What does not depend on who else is at work: CPU time, or the GPU's own."""
    return seconds.wall if device.type == "cuda" else seconds.cpu


def _memory(name: str, side: Side, device: torch.device) -> dict[str, float]:
    return {
        f"{name}_saved_mb_per_clip": saved_bytes(side.forward, side.model) / side.case.batch / 1e6,
        f"{name}_peak_mb": peak_bytes(side.step, device) / 1e6,
    }
