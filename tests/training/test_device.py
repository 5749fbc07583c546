"""Where GPUs are asked for, a run is on GPUs or refused."""

from pathlib import Path

import pytest
import torch

from everest.errors import EverestError
from everest.training import device
from everest.training.device import choose_device
from tests.conftest import tiny
from tests.integration.command import everest

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that works")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One without GPUs; its /dev."""
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "_DEVICES", tmp_path)
    return tmp_path


def test_a_machine_without_gpus_trains_on_its_cpu() -> None:
    assert choose_device("auto") == choose_device("auto", gpus=0) == CPU


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, r"this machine has GPUs \(NVIDIA_VISIBLE_DEVICES=all\)"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, r"this machine has GPUs \(CUDA_VISIBLE_DEVICES=0,1\)"),
        ({}, r"this machine has GPUs \(.*/nvidia0, .*/nvidia1\)"),
    ],
)
def test_a_machine_whose_gpus_do_not_work_is_refused_with_driver_and_cuda_version(
    monkeypatch: pytest.MonkeyPatch, machine: Path, visible: dict[str, str], said: str
) -> None:
    for name, value in visible.items():
        monkeypatch.setenv(name, value)
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (machine / name).touch()
    (machine / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build\nGCC version: 12.2.0\n"
    )
    monkeypatch.setattr(device, "_DRIVER", machine / "version")
    with pytest.raises(EverestError, match=f"^{said}, but none can be used: .*") as error:
        choose_device("auto")
    assert f"driver 535.104.05, torch {torch.__version__} for CUDA {torch.version.cuda}" in str(error.value)
    assert "EVEREST_DEVICE=cpu" in str(error.value)
    assert "\n" not in str(error.value)
    assert choose_device("cpu") == CPU


def test_a_job_that_asked_for_gpus_is_refused_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EverestError, match=r"^8 GPUs are asked for \(EVEREST_GPUS\), .*: no NVIDIA driver|; no NVIDIA"):
        choose_device("auto", gpus=8)
    with pytest.raises(EverestError, match=r"^a GPU is asked for \(EVEREST_DEVICE=gpu\)"):
        choose_device("gpu")
    assert choose_device("cpu", gpus=8) == CPU


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_gpus_that_somebody_hid_are_not_there(monkeypatch: pytest.MonkeyPatch, machine: Path, hidden: str) -> None:
    (machine / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    assert choose_device("auto") == CPU


def test_more_processes_than_gpus_are_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(EverestError, match="8 processes on this machine, but torch can use 4 of its GPUs"):
        choose_device("auto", gpus=8)


def test_the_command_refuses_before_it_writes_anything(synthetic: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(tiny("pretrain", synthetic).to_yaml())
    arguments = ("pretrain", "--recipe", tmp_path / "recipe.yaml")
    done = everest(*arguments, work=tmp_path, CUDA_VISIBLE_DEVICES="0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("everest: this machine has GPUs (CUDA_VISIBLE_DEVICES=0), but none can be used")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    done = everest(*arguments, work=tmp_path, EVEREST_DEVICE="tpu")
    assert (done.returncode, done.stderr) == (
        2,
        "everest: EVEREST_DEVICE = 'tpu': input should be 'auto', 'gpu' or 'cpu'\n",
    )
