"""Numbers of a run on their way to MLflow: each arrives once, whatever happened meanwhile."""

import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from orchestration.outbox import one_line
from orchestration.settings import PlatformSettings
from orchestration.tracking.errors import refused
from orchestration.tracking.system import PREFIX

log = logging.getLogger(__name__)

_BATCH = 100  # reports sent in one request
_MOST = 1000  # numbers that a request takes


@dataclass
class _Report:
    """``step`` None: of the machine, counted on from what MLflow has."""

    values: dict[str, float]
    step: int | None
    time: int  # ms


class Numbers:
    """What MLflow lacks of the run's metrics file, and what is added to it. ``add`` may be called from any thread."""

    def __init__(self, client: Any, settings: PlatformSettings, file: Path) -> None:
        self._client, self._settings, self._file = client, settings, file
        self._reports: deque[_Report] = deque()
        self._logged: dict[str, int] = {}
        self._refused: set[str] = set()
        self._system_step = 0
        self._run_id = ""

    def take(self, run: Run) -> None:
        """From now on they go to this run; what the file has and it lacks comes first."""
        self._run_id = run.info.run_id
        self._logged, self._system_step = {}, 0
        for metric in run.data.to_proto().metrics:
            if metric.key.startswith(PREFIX):
                self._system_step = max(self._system_step, metric.step + 1)
            else:
                self._logged[metric.key] = metric.step
        self._reports.extendleft(reversed(self._in_file()))

    def add(self, values: Mapping[str, float], step: int | None) -> None:
        self._reports.append(_Report(dict(values), step, int(time.time() * 1000)))

    def send(self) -> bool:
        """Sends some; returns whether there may be more. Sent again after a lost answer, they are no second ones."""
        reports = list(islice(self._reports, _BATCH))
        metrics, logged = [], dict(self._logged)  # a step may be among them twice: from the file and as it was added
        for report in reports:
            if report.step is None:
                report.step, self._system_step = self._system_step, self._system_step + 1
            for key, value in report.values.items():
                if report.step > logged.get(key, -1):
                    metrics.append(Metric(key, value, report.time, report.step))
                    logged[key] = report.step
        self._send(metrics)
        self._logged = logged
        for _ in reports:
            self._reports.popleft()
        return bool(reports)

    def complete(self) -> None:
        """Asks MLflow for all it has, and sends what lacks: something else may have answered in its place."""
        wanted = {
            (key, report.step): Metric(key, value, report.time, report.step)
            for report in self._in_file()
            for key, value in report.values.items()
        }
        for key in {key for key, _ in wanted}:
            for metric in self._client.get_metric_history(self._run_id, key):
                wanted.pop((key, metric.step), None)
        if lacking := [metric for metric in wanted.values() if metric.key not in self._refused]:
            log.warning("MLflow lacks %d numbers that seemed to be taken; they are sent again", len(lacking))
            self._send(lacking)

    def _send(self, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), _MOST):
            self._log(metrics[start : start + _MOST])

    def _log(self, metrics: list[Metric]) -> None:
        """Where MLflow does not accept one of them, the others are still sent."""
        try:
            self._client.log_batch(self._run_id, metrics)
        except MlflowException as error:
            if not refused(error) or not there(self._client, self._run_id):
                raise
            if len(metrics) > 1:
                half = len(metrics) // 2
                self._log(metrics[:half])
                self._log(metrics[half:])
                return
            (lost,) = metrics
            if lost.key not in self._refused:
                self._refused.add(lost.key)
                what = f"{lost.key} = {lost.value:g} of step {lost.step}"
                server = self._settings.tracking_uri
                log.error("MLflow at %s refuses %s, which is dropped: %s", server, what, one_line(error))  # noqa: TRY400

    def _in_file(self) -> list[_Report]:
        """Of the lines that are written to their end."""
        text = self._file.read_text() if self._file.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [_Report(line, line.pop("step"), line.pop("time")) for line in lines]


def there(client: Any, run_id: str) -> Run | None:
    """The run; None where MLflow says that it was deleted."""
    try:
        run: Run = client.get_run(run_id)
    except MlflowException as error:
        if not refused(error):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None
