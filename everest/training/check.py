"""Before the first step: whether every process's device, disk and connections do what they are to do.

A second or two that spare hours on a machine that computes wrongly, or not at all.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from everest.errors import Unfit
from everest.files import naming
from everest.machine import node
from everest.program import one_line
from everest.training.distributed import LOST, PeerLost, Process

_ORDER = {"cpu": 256, "cuda": 4096}  # of the matrices; powers of 2
_BYTES = 2**20


def check_machines(process: Process, folder: Path) -> None:
    """Each process checks its own; ``folder`` is where it writes.

    Raises Unfit in those that fail, with a line that says who and what, and PeerLost in all others.
    """
    with process.pulse.during("checking"):
        for check in (lambda: _check_product(process.device), lambda: _check_disk(folder, process.rank)):
            _together(process, check)
        if process.world > 1:
            _together(process, lambda: _check_sum(process))


def _together(process: Process, check: Callable[[], None]) -> None:
    fault = None
    try:
        check()
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and LOST.search(str(error)):
            raise
        fault = f"rank {process.rank} on {node()} failed the check before the first step: {one_line(error)}"
    faults = [said for said in process.gather(fault) if said]
    if fault:
        raise Unfit(f"{fault}; use another machine")
    if faults:
        raise PeerLost("; ".join(faults))


def _check_product(device: torch.device) -> None:
    """A Hadamard matrix of order n times itself is n times the identity, exactly, in any precision."""
    order = _ORDER.get(device.type, 256)
    for precision in (torch.float32, torch.bfloat16):
        matrix = _hadamard(order).to(device, precision)
        wrong = int((matrix @ matrix != order * torch.eye(order, device=device, dtype=precision)).sum())
        if wrong:
            raise RuntimeError(f"a matrix product in {precision} is wrong in {wrong} of {order**2} places")


def _hadamard(order: int) -> Tensor:
    """Sylvester's: float32 (order, order), of ones and minus ones."""
    matrix, two = torch.ones(1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(matrix) < order:
        matrix = torch.kron(two, matrix)
    return matrix


def _check_disk(folder: Path, rank: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file, content = folder / f".check-{rank}", secrets.token_bytes(_BYTES)
    try:
        with naming(file), file.open("wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        if file.read_bytes() != content:
            raise OSError(f"{file} is not what was written to it")
    finally:
        file.unlink(missing_ok=True)


def _check_sum(process: Process) -> None:
    """Each process adds its own number in its own place."""
    expected = torch.arange(1, process.world + 1, dtype=torch.float32)
    ours = torch.zeros(process.world)
    ours[process.rank] = expected[process.rank]
    ours = ours.to(process.device)
    dist.all_reduce(ours)
    wrong = (ours.cpu() != expected).nonzero().flatten().tolist()
    if wrong:
        raise RuntimeError(f"the sum over all processes does not have what rank {wrong[0]} gave")
