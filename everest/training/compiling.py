"""The network of a step as one graph that torch compiles for the device."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.utils._triton import has_triton

from everest.config import Experiment
from everest.errors import UsageError


def compiles(config: Experiment, device: torch.device) -> bool:
    """Whether steps are compiled. ``auto``: on GPUs, where that can be done.

    Raises UsageError where it is asked for and what it needs is not here.
    """
    wanted = config.optim.compile
    lack = lacking(device)
    if wanted is True and lack:
        raise UsageError(f"optim.compile true needs {lack}, which is not here; install it, or set it to auto or false")
    return wanted is True or (wanted == "auto" and device.type == "cuda" and not lack)


def compiled(model: nn.Module) -> nn.Module:
    """The model, of the same parameters, for batches of one size; it draws the random numbers that the model draws.

    Tests, pictures and checkpoints take the model itself, which stays as it is.
    """
    graph: nn.Module = torch.compile(model, fullgraph=True, options={"fallback_random": True})  # type: ignore[assignment]
    return graph


def lacking(device: torch.device) -> str | None:
    """What compiling for this device needs, where it is not here."""
    gpu = device.type == "cuda"
    if gpu and not has_triton():
        return "Triton for this GPU"
    variable, language, usual = ("CC", "C", "gcc") if gpu else ("CXX", "C++", "g++")
    compiler = os.environ.get(variable, usual)
    if not shutil.which(compiler):
        return f"a {language} compiler ({compiler}; {variable} names another)"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return None if headers.exists() else f"Python's headers ({headers})"
