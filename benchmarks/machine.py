"""The machine at hand: what it is, how fast it multiplies, what it cannot do."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from benchmarks.case import Precision
from benchmarks.timing import elapsed
from everest.cores import usable_cores
from everest.training.hardware import Peak, peak_of


def device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(rank)
        return torch.device("cuda", rank)
    return torch.device("cpu")


def described() -> dict[str, str | int]:
    """For people: hardware and versions."""
    found: dict[str, str | int] = {
        "cpu": _cpu(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory GB": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "timm")},
    }
    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "gpus": torch.cuda.device_count(),
            "cuda": str(torch.version.cuda),
        }
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak(device: torch.device) -> Peak | None:
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def flops_per_s(precision: Precision, device: torch.device) -> float:
    """What one product in a size that transformers have is done at, when nobody else is at work."""
    rows, inner, columns = 256, 768, 3072
    kind = getattr(torch, precision)
    left, right = torch.randn(rows, inner, device=device).to(kind), torch.randn(inner, columns, device=device).to(kind)
    seconds = min(elapsed(lambda: left @ right, device).wall for _ in range(8))
    return 2 * rows * inner * columns / seconds
