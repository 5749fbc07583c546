"""Load of this machine, measured by MLflow's own collectors while a run goes on."""

import threading
from collections.abc import Callable

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

PREFIX = "system/"
EVERY_S = 10.0


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
        collectors = SystemMetricsMonitor(run_id="")
        while not self._stop.wait(EVERY_S):
            collectors.collect_metrics()
            self._report({PREFIX + name: value for name, value in collectors.aggregate_metrics().items()})
            for collector in collectors.monitors:
                collector.clear_metrics()
