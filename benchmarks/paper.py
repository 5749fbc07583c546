"""The memory that pre-training takes on 8 GPUs, beside what the paper prints for 8 A100."""

import torch

from benchmarks.case import Case
from benchmarks.sides import ours
from everest.config import Size
from everest.training.distributed import Process

GPUS = 8
#: GB on all of them together, by total batch; K400, 16 frames of 224 x 224.
PRINTED: dict[Size, dict[int, float]] = {
    "small": {128: 31.9, 256: 59.9, 512: 95.6},
    "base": {128: 60.0, 256: 91.2, 512: 151.2},
    "large": {128: 117.3, 256: 164.1, 512: 258.9},
}


def memory_of(size: Size, total: int, device: torch.device) -> dict[str, object]:
    """The most that one GPU's share of the clips needs at once, weights and optimizer included, times 8."""
    found: dict[str, object] = {"size": size, "batch": total, "paper_gb": PRINTED[size][total]}
    torch.cuda.reset_peak_memory_stats(device)
    try:
        side = ours(Case("pretrain", size, "bfloat16", batch=total // GPUS), Process(0, 1, device))
        for _ in range(2):  # the optimizer's state is there from the second on
            side.step()
        found["gb"] = GPUS * torch.cuda.max_memory_allocated(device) / 1e9
    except torch.cuda.OutOfMemoryError:
        found["out_of_memory"] = True
    return found
