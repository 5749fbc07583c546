"""A sweep in MLflow, for people: a run for the study, below it one for each trial, below that its stages' runs."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState

from everest.errors import EverestError
from orchestration.job import KIND, OBJECTIVES, STUDY, TRIAL, TRIAL_STATE
from orchestration.outbox import Outbox
from orchestration.settings import PlatformSettings
from orchestration.tracking.connection import connect, experiment_id
from orchestration.tracking.errors import passes, refused, unless_refused
from orchestration.tracking.presentation import NOTE, PARENT, RUN, run_link
from sweeps.study import STATE_NAMES, Study

log = logging.getLogger(__name__)

_STATUS = {
    TrialState.COMPLETE: RunStatus.FINISHED,
    TrialState.PRUNED: RunStatus.KILLED,
    TrialState.FAIL: RunStatus.FAILED,
}


class Review:
    """Everything is sent in the background, and kept while MLflow is away. Sent again, it makes no second run."""

    def __init__(self, study: Study, settings: PlatformSettings) -> None:
        self.study, self.settings = study, connect(settings)
        self._client = mlflow.MlflowClient()
        self._outbox = Outbox(f"MLflow at {settings.tracking_uri}", passes)
        self._known: dict[str, str] = {}  # run ids
        self._experiment_name = f"{settings.mlflow_experiment}/{study.space.mlflow_experiment}"

    def begun(self, number: int, values: Mapping[str, object]) -> None:
        self._add(lambda: self._begin(number, values))

    def ended(
        self, number: int, state: TrialState, jobs: Iterable[str], numbers: Mapping[str, float], reason: str
    ) -> None:
        names = list(jobs)
        self._add(lambda: self._end(number, state, names, dict(numbers), reason))

    def finish(self, status: str, files: Sequence[Path] = ()) -> None:
        """The last call: ``status`` is one of MLflow's; what MLflow has not taken within the patience is said."""
        for file in files:
            self._add(partial(self._draw, file))
        self._add(lambda: self._client.set_terminated(self._parent(), status))
        try:
            self._outbox.flush(self.settings.patience_s)
        except EverestError as error:
            log.warning("%s; everest-sweep report %s sends it again", error, self.study.name)
        finally:
            self._outbox.close()

    def _draw(self, file: Path) -> None:
        self._client.log_artifact(self._parent(), str(file), "report")

    def _begin(self, number: int, values: Mapping[str, object]) -> None:
        run = self._child(number)
        fresh = [Param(name, str(value)) for name, value in values.items() if name not in run.data.params]
        self._client.log_batch(run.info.run_id, params=fresh, tags=[RunTag(TRIAL_STATE, "running")])
        drawn = [
            f"{name.rpartition('.')[2]} {f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in values.items()
        ]
        title = " · ".join([f"{self.study.name}-{number}", *drawn])
        self._client.update_run(run.info.run_id, RunStatus.to_string(RunStatus.RUNNING), title)

    def _end(
        self, number: int, state: TrialState, jobs: Sequence[str], numbers: Mapping[str, float], reason: str
    ) -> None:
        run_id = self._child(number).info.run_id
        shown = {name: value for name, value in numbers.items() if not name.startswith("system/")}
        tags = {TRIAL_STATE: STATE_NAMES[state], "everest.jobs": " ".join(jobs), NOTE: self._note(number, jobs, reason)}
        if reason:
            tags["everest.reason"] = reason[:1000]
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, 0, 0) for name, value in shown.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        for job in jobs:
            for stage in self._search(f"tags.`{RUN}` = '{job}'"):
                shared = job != jobs[-1] or "-pre-" in job
                self._client.set_tag(stage.info.run_id, PARENT, self._parent() if shared else run_id)
        self._client.set_terminated(run_id, RunStatus.to_string(_STATUS[state]))

    def _note(self, number: int, jobs: Sequence[str], reason: str) -> str:
        lines = [f"Trial {number} of the sweep **{self.study.name}**", ""]
        for job in jobs:
            for stage in self._search(f"tags.`{RUN}` = '{job}'"):
                lines.append(f"- {run_link(job, stage.info.experiment_id, stage.info.run_id)}")
        return "\n".join([*lines, *(["", f"{reason}"] if reason else [])])

    def _parent(self) -> str:
        name = self.study.name
        if name not in self._known:
            found = self._search(f"tags.`{KIND}` = 'study' and tags.`{STUDY}` = '{name}'")
            made = found[0] if found else self._create(name, {KIND: "study"})
            self._known[name] = made.info.run_id
            space = self.study.space
            wanted = ", ".join(f"{metric} ({how})" for metric, how in space.objectives.items())
            self._client.set_tag(self._known[name], NOTE, f"Sweep of {', '.join(space.search)} for {wanted}.")
            self._client.set_tag(self._known[name], OBJECTIVES, json.dumps(space.objectives))
            self._client.update_run(self._known[name], status=RunStatus.to_string(RunStatus.RUNNING))
        return self._known[name]

    def _child(self, number: int) -> Run:
        trial = f"{self.study.name}/{number}"
        if trial not in self._known:
            found = self._search(f"tags.`{KIND}` = 'trial' and tags.`{TRIAL}` = '{trial}'")
            tags = {KIND: "trial", TRIAL: trial, PARENT: self._parent()}
            made = found[0] if found else self._create(f"{self.study.name}-{number}", tags)
            self._known[trial] = made.info.run_id
        return self._client.get_run(self._known[trial])

    def _create(self, name: str, tags: Mapping[str, str]) -> Run:
        return self._client.create_run(self._experiment(), run_name=name, tags={STUDY: self.study.name, **tags})

    def _search(self, what: str) -> list[Run]:
        return list(self._client.search_runs([self._experiment()], what, max_results=1))

    def _experiment(self) -> str:
        return experiment_id(self._client, self.settings, self._experiment_name)

    def _add(self, operation: Callable[[], Any]) -> None:
        self._outbox.add(lambda: unless_refused(lambda: self._in_runs(operation), self.settings))

    def _in_runs(self, operation: Callable[[], Any]) -> None:
        """Runs that somebody deleted are made again."""
        try:
            operation()
        except MlflowException as error:
            if not refused(error):
                raise
            self._known.clear()
            operation()
