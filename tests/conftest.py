"""What tests share: where real clips and golden numbers are, and small experiments."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def clips() -> Path:
    folder = Path(os.environ.get("EVEREST_TEST_CLIPS", SHARED / "clips"))
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}; EVEREST_TEST_CLIPS names a folder of them")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = Path(os.environ.get("EVEREST_TEST_GOLDEN", SHARED / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; EVEREST_TEST_GOLDEN names a folder of them")
    return folder
