"""Runs in MLflow, through interruptions of the run and outages of the server."""

import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import mlflow
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_ALREADY_EXISTS,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.program import printable
from everest.protocols import CheckpointStore, Outcome
from everest.training.local import METRICS
from orchestration.outbox import Away, Outbox, one_line
from orchestration.provenance import commit, given_tags
from orchestration.settings import PlatformSettings
from orchestration.tracking.presentation import COMMIT, NOTE, TRAINING, experiment_name, run_name, run_note, run_tags
from orchestration.tracking.system import PREFIX, SystemMetrics

log = logging.getLogger(__name__)

RUN_POINTER = "mlflow-run.json"

_STATUS = {
    "finished": RunStatus.FINISHED,
    "failed": RunStatus.FAILED,
    "interrupted": RunStatus.KILLED,
}
_PASSING = {ErrorCode.Name(code) for code in (INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, REQUEST_LIMIT_EXCEEDED,
                                              DEADLINE_EXCEEDED)}  # fmt: skip
_BATCH = 100  # reports sent in one request; a request takes 1000 numbers at most
_LAST_WORDS_S = 5.0


@dataclass
class _Report:
    """Numbers on their way. ``step`` None: of the machine, counted on from what MLflow has."""

    values: dict[str, float]
    step: int | None
    time: int  # ms


class MLflowTracker:
    """One MLflow run per experiment, for as often as it is continued: ``memory`` keeps its id beside the checkpoints.

    Everything is sent in the background, in order; while the server is away it is kept. What an earlier process
    measured and could not send is in the run's metrics file, and is sent by the next one. Nothing is sent twice.
    """

    def __init__(
        self,
        config: Experiment,
        folder: Path,
        memory: CheckpointStore,
        settings: PlatformSettings,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.config, self.folder, self.memory, self.settings = config, folder, memory, settings
        self.tags = {**run_tags(config), **given_tags(), **(tags or {})}
        if code := commit():
            self.tags[COMMIT] = code
        self.client = mlflow.MlflowClient()
        self._outbox = Outbox(f"MLflow at {settings.tracking_uri}", passes)
        self._reports: deque[_Report] = deque()
        self._logged: dict[str, int] = {}
        self._system_step = 0
        self.run_id = ""

    def start(self, parameters: Mapping[str, Any], step: int) -> None:
        """Raises EverestError where MLflow answers that it does not want this run."""
        said = self.memory.read(RUN_POINTER)
        known = json.loads(said)["run"] if said else None
        key = uuid.uuid4().hex
        earlier = [report for report in _reports_in(self.folder / METRICS) if report.step and report.step <= step]

        def begin() -> None:
            self._begin(known, key, parameters)
            self._reports.extendleft(reversed(earlier))

        try:
            begin()
        except Exception as error:
            if not passes(error):
                raise EverestError(f"MLflow at {self.settings.tracking_uri}: {one_line(error)}") from None
            self._outbox.add(begin)
        self._outbox.add(self._send)
        self._system = SystemMetrics(self._report_system)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A resumed run repeats the steps after its checkpoint, to the same numbers; they are sent once."""
        self._reports.append(_Report(dict(values), step, _now()))
        self._outbox.add(self._send)

    def dataset(self, name: str, source: str, digest: str, videos: int, context: str) -> None:
        address = Path(source).resolve().as_uri()
        made = MetaDataset(CodeDatasetSource({"uri": address}), name=name, digest=digest).to_dict()
        tags = [InputTag("mlflow.data.context", context), InputTag("videos", str(videos))]
        entry = DatasetInput(Dataset(made["name"], made["digest"], made["source_type"], made["source"]), tags)
        self._add(lambda: self.client.log_inputs(self.run_id, [entry]))

    def artifact(self, path: Path, folder: str = "") -> None:
        self._add(lambda: self.client.log_artifact(self.run_id, str(path), folder or None))

    def model(self, folder: Path, name: str) -> str | None:
        """None: of a job's model, a version is made by ``everest-jobs register``."""
        return None

    def flush(self) -> None:
        """Returns when MLflow has everything. Raises Away."""
        self._outbox.flush(self.settings.patience_s)

    def finish(self, outcome: Outcome) -> None:
        """Raises Away where a finished run's records cannot be sent for as long as the settings' patience."""
        self._system.stop()
        status = RunStatus.to_string(_STATUS[outcome])
        try:
            self._add(self._describe)
            self._add(lambda: self.client.set_terminated(self.run_id, status))
            self._outbox.flush(self.settings.patience_s if outcome == "finished" else _LAST_WORDS_S)
        except Exception as error:
            if outcome == "finished":
                said = f"{one_line(error)}; the checkpoints are kept, the same command sends what is missing"
                raise Away(said) from None
            log.warning("%s; it is kept with the checkpoint and sent when the run is continued", one_line(error))
        finally:
            self._outbox.close()

    def _begin(self, known: str | None, key: str, parameters: Mapping[str, Any]) -> None:
        experiment = experiment_id(self.client, self.settings, experiment_name(self.settings, self.config, self.tags))
        run = self._find(known, experiment) or self._created(key, experiment)
        self.run_id = run.info.run_id
        for metric in run.data.to_proto().metrics:
            if metric.key.startswith(PREFIX):
                self._system_step = max(self._system_step, metric.step + 1)
            else:
                self._logged[metric.key] = metric.step
        if self.run_id != known:
            self.memory.point(RUN_POINTER, json.dumps({"run": self.run_id, "experiment": experiment}))
        params = [Param(name, printable(value)) for name, value in parameters.items()]
        same = {param.key for param in params if run.data.params.get(param.key) == param.value}
        fresh = [param for param in params if param.key not in same | set(run.data.params)]
        tags = [RunTag(name, value) for name, value in self.tags.items()]
        self.client.log_batch(self.run_id, params=fresh, tags=tags)
        self._describe()
        self.client.update_run(self.run_id, status=RunStatus.to_string(RunStatus.RUNNING))

    def _find(self, known: str | None, experiment: str) -> Run | None:
        if known is None:
            return None
        try:
            run = self.client.get_run(known)
        except MlflowException as error:
            if passes(error):
                raise
            return None
        return run if run.info.experiment_id == experiment and run.info.lifecycle_stage == "active" else None

    def _created(self, key: str, experiment: str) -> Run:
        """The new run, also where it was created before and only the answer was lost."""
        found = self.client.search_runs([experiment], f"tags.`everest.key` = '{key}'")
        return found[0] if found else self.client.create_run(
            experiment, tags={"everest.key": key}, run_name=run_name(self.config)
        )  # fmt: skip

    def _describe(self) -> None:
        metrics = self.client.get_run(self.run_id).data.metrics
        note = run_note(self.config, self.tags, metrics, self.settings)
        self.client.set_tag(self.run_id, NOTE, note)

    def _report_system(self, values: dict[str, float]) -> None:
        self._reports.append(_Report(values, None, _now()))
        self._outbox.add(self._send)

    def _send(self) -> None:
        """Sends what is there; sent again after a lost answer, the same numbers are no second ones for MLflow."""
        reports = list(islice(self._reports, _BATCH))
        metrics = []
        for report in reports:
            if report.step is None:
                report.step, self._system_step = self._system_step, self._system_step + 1
            for key, value in report.values.items():
                if report.step > self._logged.get(key, -1):
                    metrics.append(Metric(key, value, report.time, report.step))
        for start in range(0, len(metrics), 1000):
            self._log(metrics[start : start + 1000])
        for report in reports:
            self._reports.popleft()
            for key in report.values:
                self._logged[key] = max(self._logged.get(key, -1), report.step or 0)
        if reports:
            self._outbox.add(self._send)

    def _log(self, metrics: list[Metric]) -> None:
        """Where MLflow does not accept one of them, the others are still sent."""
        try:
            self.client.log_batch(self.run_id, metrics)
        except MlflowException as error:
            if passes(error):
                raise
            for metric in metrics:
                unless_refused(partial(self.client.log_batch, self.run_id, [metric]), self.settings)

    def _add(self, operation: Callable[[], Any]) -> None:
        self._outbox.add(self._send)
        self._outbox.add(lambda: unless_refused(operation, self.settings))


def connect(settings: PlatformSettings | None = None) -> PlatformSettings:
    """Points MLflow to where the settings say."""
    settings = settings or PlatformSettings.load()
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(20)
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    if settings.s3_endpoint:
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", settings.s3_endpoint)
    if not settings.mlflow_uri:
        settings.work.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.tracking_uri)
    return settings


def passes(error: BaseException) -> bool:
    """Whether trying again later may help."""
    if isinstance(error, MlflowException):
        return error.error_code in _PASSING
    return isinstance(error, BotoCoreError | ClientError | S3UploadFailedError | ConnectionError | TimeoutError)


def unless_refused(operation: Callable[[], Any], settings: PlatformSettings) -> None:
    """What MLflow does not accept is said, and stops nothing; an outage is raised."""
    try:
        operation()
    except Exception as error:
        if passes(error):
            raise
        log.error("MLflow at %s refuses a record: %s", settings.tracking_uri, one_line(error))  # noqa: TRY400


def experiment_id(client: Any, settings: PlatformSettings, name: str) -> str:
    """Made where there is none of that name."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, settings.artifact_location, TRAINING))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        found = client.get_experiment_by_name(name)  # another run was quicker
    if found.lifecycle_stage != "active":
        raise UsageError(f"MLflow experiment {name!r} is deleted; restore it or set EVEREST_MLFLOW_EXPERIMENT")
    return str(found.experiment_id)


def _reports_in(file: Path) -> list[_Report]:
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [_Report(line, line.pop("step"), line.pop("time")) for line in lines]


def _now() -> int:
    return int(time.time() * 1000)
