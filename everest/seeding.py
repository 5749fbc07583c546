"""Randomness that depends on what is done and not on what was done before: runs resume exactly."""

import os
import random
from zlib import crc32

import numpy as np
import torch


def derived_seed(*keys: int | str) -> int:
    """A 64-bit seed for what the keys say, such as (seed, "sample", epoch, number)."""
    entropy = [crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def seed_everything(*keys: int | str) -> None:
    """Seeds every generator that libraries draw from: Python's, NumPy's and torch's, on all devices."""
    torch.manual_seed(seed_cpu(*keys) % 2**63)


def seed_cpu(*keys: int | str) -> int:
    """Seeds those that draw on the CPU: quicker, for where nothing is drawn elsewhere. Returns the seed."""
    seed = derived_seed(*keys)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**63)
    return seed


def choose_algorithms(deterministic: bool) -> None:
    """Those that give the same bits each time, or the fastest. Before anything is multiplied on a GPU."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its start
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False
