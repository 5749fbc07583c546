"""Load of this machine, measured by MLflow's own collectors while a run goes on."""

import logging
import threading
from collections.abc import Callable

from mlflow.system_metrics.metrics import gpu_monitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

PREFIX = "system/"
EVERY_S = 10.0


class _Once(logging.Filter):
    """What a GPU does not tell, as a part of one (MIG) does not tell its power, is said once and not every time."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        said, new = record.getMessage(), len(self._said)
        self._said.add(said)
        return len(self._said) > new


_ONCE = _Once()  # of all runs of a process: the same filter is added to a logger but once


class SystemMetrics:
    """Calls ``report`` every few seconds, from a thread of its own, until stopped."""

    def __init__(self, report: Callable[[dict[str, float]], None]) -> None:
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _measure(self) -> None:
        """GPUs are among what is collected where ``nvidia-ml-py`` finds a driver."""
        logging.getLogger(gpu_monitor.__name__).addFilter(_ONCE)
        collectors = SystemMetricsMonitor(run_id="")
        while not self._stop.wait(EVERY_S):
            collectors.collect_metrics()
            self._report({PREFIX + name: value for name, value in collectors.aggregate_metrics().items()})
            for collector in collectors.monitors:
                collector.clear_metrics()
