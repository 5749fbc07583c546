"""A pod whose processes do not all go on: ``python -m tests.orchestration.pod.faulty_pod FOLDER FAULT:RANK:STEP …``.

FOLDER has the experiment. Each fault comes once, but for those that begin with ``always-``. ``idles``: two GPUs, as a
driver would tell of them, that have nothing to do.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everest.data import loader
from everest.data.units import Unit, Units
from orchestration.pod import rank, worker

STOPPED_S, VALIDATED_S = 4.0, 16.0


class Deadlocked(Units):
    """In a decoding worker."""

    def __getitem__(self, videos: Sequence[Any]) -> Unit:
        if (_folder() / f"deadlocks-{os.environ['RANK']}").exists():
            waits_for_a_lock_that_nobody_gives_back()
        return super().__getitem__(videos)


def waits_for_a_lock_that_nobody_gives_back() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def goes_round_and_round() -> None:
    while True:
        pass


def is_stopped(seconds: float | None = None) -> None:
    if seconds is not None:
        subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def _folder() -> Path:
    return Path(os.environ["FAULTY_FOLDER"])


def _happen(fault: str) -> None:
    match fault.removeprefix("always-"):
        case "loops":
            goes_round_and_round()
        case "stops":
            is_stopped()
        case "pauses":
            is_stopped(STOPPED_S)
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "deadlocks":
            (_folder() / f"deadlocks-{os.environ['RANK']}").touch()


def _idle() -> None:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    from orchestration.tracking import system

    def collect(gpus: GPUMonitor) -> None:
        for number in range(2):
            gpus._metrics[f"gpu_{number}_utilization_percentage"].append(0.4)

    system.EVERY_S = 0.5
    GPUMonitor.__init__, GPUMonitor.collect_metrics = BaseMetricsMonitor.__init__, collect


def _break() -> None:
    from everest.training import run
    from everest.training.step import Step

    forward_backward, test = Step._forward_backward, run.evaluate
    (_folder() / f"deadlocks-{os.environ['RANK']}").unlink(missing_ok=True)

    def breaking(self: Step, batch: Any, keys: tuple[int | str, ...]) -> Any:
        for fault, wanted, step in (each.split(":") for each in json.loads(os.environ["FAULTS"])):
            came = _folder() / f"came-{fault}-{step}"
            if (wanted, step) == (os.environ["RANK"], str(keys[1])) and (fault[:6] == "always" or not came.exists()):
                came.touch()
                _happen(fault)
        return forward_backward(self, batch, keys)

    def slowly(*arguments: Any) -> Any:
        time.sleep(VALIDATED_S)
        return test(*arguments)

    Step._forward_backward = breaking  # type: ignore[method-assign]
    run.evaluate = slowly
    loader.Units = Deadlocked  # type: ignore[misc]


def run_faulty_rank(*let_in: str) -> int:
    rank.EXPERIMENT_FILE = str(_folder() / "experiment.yaml")
    _break()
    if "idles" in os.environ["FAULTS"]:
        _idle()
    return rank.run_rank(*let_in)


if __name__ == "__main__":
    os.environ["FAULTY_FOLDER"], os.environ["FAULTS"] = sys.argv[1], json.dumps(sys.argv[2:])
    worker.EXPERIMENT_FILE = str(_folder() / "experiment.yaml")
    worker.run_rank = run_faulty_rank  # type: ignore[assignment]
    worker.main()
