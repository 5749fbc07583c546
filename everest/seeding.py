"""Randomness that depends on what is done and not on what was done before: runs resume exactly."""

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
    seed = derived_seed(*keys)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
