"""Runs in MLflow, through interruptions of the run and outages of the server."""

import json
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from everest.config import Experiment
from everest.errors import EverestError
from everest.program import printable
from everest.protocols import CheckpointStore, Outcome
from everest.training.local import METRICS
from orchestration.idle import IdleGpus
from orchestration.job import RUN_POINTER
from orchestration.outbox import Away, Operation, Outbox, one_line
from orchestration.provenance import changes, commit, given_tags
from orchestration.settings import PlatformSettings
from orchestration.tracking.connection import experiment_id
from orchestration.tracking.errors import describe, is_away, passes, refused, unless_refused
from orchestration.tracking.numbers import Numbers, there
from orchestration.tracking.presentation import (
    COMMIT,
    IDLE,
    NOTE,
    USER,
    experiment_name,
    run_name,
    run_note,
    run_tags,
)
from orchestration.tracking.system import EVERY_S, SystemMetrics

log = logging.getLogger(__name__)

_STATUS = {
    "finished": RunStatus.FINISHED,
    "failed": RunStatus.FAILED,
    "interrupted": RunStatus.KILLED,
}
_PARAMS = 100  # that a request takes
_LAST_WORDS_S = 5.0


class MLflowTracker:
    """One MLflow run per experiment, for as often as it is continued: ``memory`` keeps its id beside the checkpoints.

    Everything is sent in the background, in order; while the server is away, or lets nobody in, it is kept. What an
    earlier process measured and could not send is in the run's metrics file, and is sent by the next one. Nothing is
    sent twice. A run that somebody deletes is made again, with all its numbers; a deleted experiment is waited for.
    """

    def __init__(
        self,
        config: Experiment,
        folder: Path,
        memory: CheckpointStore,
        settings: PlatformSettings,
        tags: Mapping[str, str] | None = None,
        idle: IdleGpus | None = None,
    ) -> None:
        self.config, self.memory, self.settings, self._idle = config, memory, settings, idle
        self.tags = {**run_tags(config), USER: settings.user, **given_tags(), **(tags or {})}
        if idle:
            self.tags[IDLE] = ""  # whatever an earlier process has said
        if code := commit():
            self.tags[COMMIT] = code
        self.client = mlflow.MlflowClient()
        server = f"MLflow at {settings.tracking_uri}"
        self._outbox = Outbox(server, passes, describe)
        self._uploads = Outbox(
            f"what keeps artifacts of {server}", passes, describe
        )  # numbers do not wait for pictures
        self._numbers = Numbers(self.client, settings, folder / METRICS)
        self._parameters: Mapping[str, Any] = {}
        self._kept: list[Operation] = []  # what is not in the metrics file, for a run that is made again
        self._key = uuid.uuid4().hex
        self._known: str | None = None  # to memory
        self._anew = False  # before the first step the name is free, and the known run may be another's
        self._deleted = False  # by somebody, and not made again yet
        self.run_id = ""

    def start(self, parameters: Mapping[str, Any], step: int) -> None:
        """Raises EverestError where MLflow, or what answers in its place, does not want a new run.

        A run that MLflow has had before is continued without asking: who was let in then may be again.
        """
        said = self.memory.read(RUN_POINTER)
        self._known = json.loads(said)["run"] if said else None
        self._parameters, self._anew = parameters, step == 0
        waits = passes if self._known else is_away
        try:
            self._begin()
        except Exception as error:
            if waits(error):
                self._outbox.add(self._begin)
            elif isinstance(error, MlflowException):
                raise self._unwilling(error) from None
            else:
                raise
        self._outbox.add(self._send)
        if patch := changes():
            self.artifact(patch, "code")
        self._system = SystemMetrics(self._measured)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A resumed run repeats the steps after its checkpoint, to the same numbers; they are sent once."""
        self._report(values, step)

    def dataset(self, name: str, source: str, digest: str, videos: int, context: str) -> None:
        address = Path(source).resolve().as_uri()
        made = MetaDataset(CodeDatasetSource({"uri": address}), name=printable(name), digest=digest).to_dict()
        tags = [InputTag("mlflow.data.context", context), InputTag("videos", str(videos))]
        entry = DatasetInput(Dataset(made["name"], made["digest"], made["source_type"], made["source"]), tags)
        self._keep(lambda: self.client.log_inputs(self.run_id, [entry]))

    def artifact(self, path: Path, folder: str = "") -> None:
        self._keep(lambda: self._uploads.add(lambda: unless_refused(lambda: self._upload(path, folder), self.settings)))

    def model(self, folder: Path, name: str) -> str | None:
        """None: of a job's model, a version is made by ``everest-jobs register``."""
        return None

    def flush(self) -> None:
        """Returns when MLflow has everything. Raises Away."""
        self._flush(self.settings.patience_s)

    def finish(self, outcome: Outcome) -> None:
        """Raises Away where a finished run's records cannot be sent for as long as the settings' patience."""
        self._system.stop()
        seconds = self.settings.patience_s if outcome == "finished" else _LAST_WORDS_S
        status = RunStatus.to_string(_STATUS[outcome])
        try:
            if outcome == "finished":
                self._add(self._numbers.complete)
            self._add(self._describe)
            self._flush(seconds)
            self._add(lambda: self.client.set_terminated(self.run_id, status))
            self._flush(seconds)
        except Exception as error:
            if outcome == "finished":
                said = f"{one_line(error)}; the checkpoints are kept, the same command sends what is missing"
                raise Away(said) from None
            log.warning("%s; it is kept with the checkpoint and sent when the run is continued", one_line(error))
        finally:
            self._outbox.close()
            self._uploads.close()

    def _flush(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._outbox.flush(seconds)
        self._uploads.flush(max(0, deadline - time.monotonic()))

    def _begin(self) -> None:
        """The known run, else a new one."""
        try:
            experiment = experiment_name(self.settings, self.config, self.tags)
            experiment = experiment_id(self.client, self.settings, experiment)
            run = self._find(self.run_id or self._known, experiment) or self._created(experiment)
            if self.run_id != run.info.run_id:
                self.run_id = run.info.run_id
                self._numbers.take(run)
            if self.run_id != self._known:
                self.memory.point(RUN_POINTER, json.dumps({"run": self.run_id, "experiment": experiment}))
                self._known = self.run_id
            self._describe_settings(run)
            self._describe()
            self.client.update_run(self.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        except MlflowException as error:
            if refused(error):
                raise self._unwilling(error) from None
            raise
        self._key = uuid.uuid4().hex

    def _unwilling(self, error: MlflowException) -> EverestError:
        said = f"MLflow at {self.settings.tracking_uri}: {describe(error)}"
        return EverestError(f"{said} (EVEREST_MLFLOW_URI, MLFLOW_TRACKING_…)")

    def _describe_settings(self, run: Run) -> None:
        """Where MLflow does not accept one of the parameters, the others are still sent."""
        params = [Param(name, printable(value)) for name, value in self._parameters.items()]
        fresh = [param for param in params if param.key not in run.data.params]
        for start in range(0, len(fresh), _PARAMS):
            some = fresh[start : start + _PARAMS]
            try:
                self.client.log_batch(self.run_id, params=some)
            except MlflowException as error:
                if not refused(error):
                    raise
                for param in some:
                    unless_refused(partial(self.client.log_batch, self.run_id, params=[param]), self.settings)
        self.client.log_batch(self.run_id, tags=[RunTag(name, printable(value)) for name, value in self.tags.items()])

    def _find(self, known: str | None, experiment: str) -> Run | None:
        run = there(self.client, known) if known else None
        if run is None or run.info.experiment_id != experiment:
            return None
        given = {name: printable(value) for name, value in self._parameters.items()}
        other = any(given.get(name, value) != value for name, value in run.data.params.items())
        return None if self._anew and other else run

    def _created(self, experiment: str) -> Run:
        """The new run, also where it was created before and only the answer was lost."""
        found = self.client.search_runs([experiment], f"tags.`everest.key` = '{self._key}'")
        run: Run = found[0] if found else self.client.create_run(
            experiment, tags={"everest.key": self._key}, run_name=printable(run_name(self.config))
        )  # fmt: skip
        if not run.info.run_id:
            raise MlflowException("what answers does not make runs; it is not MLflow")
        return run

    def _describe(self) -> None:
        metrics = self.client.get_run(self.run_id).data.metrics
        note = run_note(self.config, self.tags, metrics, self.settings)
        self.client.set_tag(self.run_id, NOTE, printable(note))

    def _measured(self, values: Mapping[str, float]) -> None:
        """Of the machine."""
        self._report(values, None)
        said = self._idle.see(values, EVERY_S) if self._idle else None
        if said is not None:
            self._keep(lambda: self.client.set_tag(self.run_id, IDLE, said))

    def _report(self, values: Mapping[str, float], step: int | None) -> None:
        self._numbers.add(values, step)
        self._outbox.add(self._send)

    def _send(self) -> None:
        def send() -> None:
            if self._numbers.send():
                self._outbox.add(self._send)

        self._in_run(send)

    def _upload(self, path: Path, folder: str) -> None:
        if not path.exists():
            log.error("%s is gone before it was sent to MLflow", path)
            return
        name = printable(path.name)
        if name == path.name:
            self.client.log_artifact(self.run_id, str(path), folder or None)
            return
        with tempfile.TemporaryDirectory(prefix="everest-artifact-") as scratch:
            copy = shutil.copyfile(path, Path(scratch) / name)
            self.client.log_artifact(self.run_id, str(copy), folder or None)

    def _keep(self, operation: Operation) -> None:
        self._kept.append(operation)
        self._add(operation)

    def _add(self, operation: Operation) -> None:
        self._outbox.add(self._send)
        self._outbox.add(lambda: unless_refused(lambda: self._in_run(operation), self.settings))

    def _in_run(self, operation: Operation) -> None:
        """Does it in the run that there is; where somebody deleted that, in a new one, which gets everything again."""
        if self._deleted:
            self._begin_again()
        try:
            operation()
        except MlflowException as error:
            if not refused(error) or there(self.client, self.run_id):
                raise
            self._deleted = True
            self._begin_again()
            operation()

    def _begin_again(self) -> None:
        before = self.run_id
        self._begin()
        if self.run_id != before:
            log.warning("the run %s was deleted in MLflow; %s takes its place", before, self.run_id)
        for kept in self._kept:
            self._add(kept)
        self._deleted = False
