"""What is measured of the machine while a run goes on."""

import queue
from collections.abc import Iterator
from types import SimpleNamespace

import mlflow
import pynvml
import pytest

from orchestration.tracking import system
from orchestration.tracking.system import SystemMetrics


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Iterator["queue.Queue[dict[str, float]]"]:
    monkeypatch.setattr(system, "EVERY_S", 0.01)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:1")  # as a run has one; nothing is sent there
    yield queue.Queue()
    mlflow.set_tracking_uri(before)


def one_report(reported: "queue.Queue[dict[str, float]]") -> dict[str, float]:
    metrics = SystemMetrics(reported.put)
    try:
        return reported.get(timeout=60)
    finally:
        metrics.stop()


def test_processors_and_memory_are_reported(reported: "queue.Queue[dict[str, float]]") -> None:
    found = one_report(reported)
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100
    assert found["system/system_memory_usage_megabytes"] > 0


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's answers in the place of the driver: there is none where tests run."""
    answers = {
        "nvmlInit": None,
        "nvmlDeviceGetCount": 2,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=20e9, total=80e9),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97),
        "nvmlDeviceGetPowerUsage": 350_000,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)


@pytest.mark.usefixtures("gpus")
def test_gpus_are_reported_as_the_driver_tells(reported: "queue.Queue[dict[str, float]]") -> None:
    found = one_report(reported)
    for gpu in ("gpu_0", "gpu_1"):
        assert found[f"system/{gpu}_utilization_percentage"] == 97
        assert found[f"system/{gpu}_memory_usage_megabytes"] == 20_000
        assert found[f"system/{gpu}_memory_usage_percentage"] == 25
        assert found[f"system/{gpu}_power_usage_watts"] == 350


@pytest.mark.usefixtures("gpus")
def test_what_a_part_of_a_gpu_does_not_tell_is_said_once(
    reported: "queue.Queue[dict[str, float]]", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", refuse)
    metrics = SystemMetrics(reported.put)
    found = [reported.get(timeout=60) for _ in range(3)][-1]
    metrics.stop()
    assert found["system/gpu_0_power_usage_watts"] == 350
    assert "system/gpu_0_utilization_percentage" not in found
    assert caplog.text.count("Not Supported when trying to collect GPU utilization") == 1
