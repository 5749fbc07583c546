"""What a process computes on. Where GPUs are asked for it is one of them, and never the CPU instead."""

import os
import re
import warnings
from pathlib import Path
from typing import Literal

import torch

from everest.errors import EverestError

Wanted = Literal["auto", "gpu", "cpu"]

_DRIVER = Path("/proc/driver/nvidia/version")
_DEVICES = Path("/dev")
_HIDDEN = {"", "-1", "void", "none", "NoDevFiles"}  # what says that there are none to be seen


def choose_device(wanted: Wanted, gpus: int | None = None) -> torch.device:
    """This process's GPU, or the CPU where none is asked for.

    ``gpus`` is what a job asked for; None: those that this machine has. Raises EverestError where they cannot be used.
    """
    if wanted == "cpu" or (gpus == 0 and wanted == "auto"):
        return torch.device("cpu")
    asked = _asked_for(wanted, gpus)
    with warnings.catch_warnings(action="ignore"):  # torch warns of what is an error here
        usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not usable and not asked:
        return torch.device("cpu")
    rank, processes = (int(os.environ.get(name, alone)) for name, alone in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    if usable and processes > usable:
        raise EverestError(
            f"{processes} processes on this machine, but torch can use {usable} of its GPUs; start as many processes"
        )
    device = torch.device("cuda", rank)
    if trouble := _trouble(device):
        raise EverestError(
            f"{asked or 'there is a GPU'}, but none can be used: {trouble}; {_driver()}, torch {torch.__version__} for "
            f"CUDA {torch.version.cuda}; EVEREST_DEVICE=cpu trains on the CPU all the same"
        )
    return device


def _asked_for(wanted: Wanted, gpus: int | None) -> str | None:
    """What asks for GPUs: the job, the person, or the machine that has some."""
    if gpus:
        return f"{gpus} GPUs are asked for (EVEREST_GPUS)"
    if wanted == "gpu":
        return "a GPU is asked for (EVEREST_DEVICE=gpu)"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in _HIDDEN:
        return None
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        if (value := os.environ.get(name, "").strip()) not in _HIDDEN:
            return f"this machine has GPUs ({name}={value})"
    found = sorted(path for path in _DEVICES.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
    return f"this machine has GPUs ({', '.join(map(str, found))})" if found else None


def _trouble(device: torch.device) -> str | None:
    """Why torch cannot compute there, in one line."""
    try:
        torch.cuda.set_device(device)
        float(torch.ones(1, device=device) + 1)
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    return None


def _driver() -> str:
    said = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _DRIVER.read_text()) if _DRIVER.exists() else None
    return f"driver {said[1]}" if said else "no NVIDIA driver here"
