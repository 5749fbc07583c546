"""How often a step makes the host wait for the GPU."""

import warnings
from collections.abc import Callable

import torch


def waits_of(step: Callable[[], object]) -> int:
    """As torch counts them. The first step, which makes things once, comes before."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)
