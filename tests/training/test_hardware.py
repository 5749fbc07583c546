"""How much of a GPU is used, computed where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from everest.model.cost import flops_to_train
from everest.model.registry import pretrain_model
from everest.training.distributed import Process
from everest.training.hardware import Hardware, peak_of, utilisation
from tests.conftest import tiny

EACH = 40e9  # bytes


@pytest.mark.parametrize(
    ("name", "bfloat16"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
    ],
)
def test_a_gpu_is_known_by_the_name_that_torch_gives_it(name: str, bfloat16: float) -> None:
    peak = peak_of(name)
    assert peak
    assert peak.bfloat16 == bfloat16


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 5090", "NVIDIA GB200"])
def test_what_is_not_known_is_not_guessed(name: str) -> None:
    assert peak_of(name) is None


def test_utilisation_is_work_done_over_work_possible() -> None:
    """100 clips a second of 2e12 operations are 200 of the 400 that two GPUs of 200e12 could do."""
    assert utilisation(flops_per_clip=2e12, clips_per_s=100, peak=2 * 200e12) == 0.5


def hardware(device: str, bfloat16: bool = True) -> tuple[Hardware, float]:
    """And what its model costs to train on a clip."""
    config = tiny("pretrain", Path())
    model = pretrain_model(config)
    return Hardware(Process(0, 1, torch.device(device)), model, config, bfloat16), flops_to_train(model, config)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes torch tell of one with such a name."""

    def named(name: str) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: EACH)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)

    return named


def test_a_cpu_has_no_such_numbers() -> None:
    assert hardware("cpu")[0].numbers(clips_per_s=10) == {}


@pytest.mark.parametrize(("bfloat16", "peak"), [(True, 312e12), (False, 19.5e12)])
def test_a_gpus_share_of_its_peak_and_its_memory_are_told(
    gpu: Callable[[str], None], bfloat16: bool, peak: float
) -> None:
    gpu("NVIDIA A100-SXM4-80GB")
    found, flops = hardware("cuda:0", bfloat16)
    assert found.numbers(clips_per_s=100) == pytest.approx({"perf/memory_gb": 40, "perf/mfu": 100 * flops / peak})


def test_a_gpu_that_is_not_known_has_its_memory_told(
    gpu: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    gpu("Some GPU")
    assert hardware("cuda:0")[0].numbers(clips_per_s=100) == {"perf/memory_gb": 40}
    assert "perf/mfu is left out: what a Some GPU can do at most is not known here" in caplog.text
