"""Runs and models in MLflow: the only module that talks to it."""

import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, RunStatus
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.files import write_text
from everest.protocols import Outcome
from orchestration.settings import PlatformSettings

_STATUS = {
    "finished": RunStatus.FINISHED,
    "failed": RunStatus.FAILED,
    "interrupted": RunStatus.KILLED,
}
_SYSTEM_METRICS_EVERY_S = 5


class MLflowTracker:
    """One MLflow run per experiment, through interruptions: its id stays in the run's folder."""

    def __init__(self, config: Experiment, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.settings = connect()
        self._logged: dict[str, int] = {}

    def start(self, parameters: Mapping[str, Any], step: int) -> None:
        experiment = _experiment_id(self.settings)
        mlflow.set_system_metrics_sampling_interval(_SYSTEM_METRICS_EVERY_S)
        run_id = self._known_run(experiment)
        run = mlflow.start_run(
            run_id=run_id,
            experiment_id=experiment,
            run_name=None if run_id else self.config.name,
            log_system_metrics=True,
        )
        self._run_id = run.info.run_id
        self._client = mlflow.MlflowClient()
        if run_id:
            self._logged = {key: self._last_step(key) for key in run.data.metrics if not key.startswith("system/")}
            return
        write_text(self.folder / "mlflow-run", self._run_id)
        mlflow.set_tags({"stage": self.config.stage, **_git_tags()})
        mlflow.log_params(dict(parameters))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A resumed run repeats the steps after its checkpoint, to the same numbers; they are sent once."""
        fresh = {key: value for key, value in values.items() if step > self._logged.get(key, -1)}
        if fresh:
            self._client.log_batch(self._run_id, [Metric(key, value, _now(), step) for key, value in fresh.items()])

    def dataset(self, name: str, source: str, digest: str, videos: int, context: str) -> None:
        address = Path(source).resolve().as_uri()
        dataset = MetaDataset(CodeDatasetSource({"uri": address}), name=name, digest=digest)
        mlflow.log_input(dataset, context=context, tags={"videos": str(videos)})

    def artifact(self, path: Path, folder: str = "") -> None:
        mlflow.log_artifact(str(path), folder or None)

    def model(self, folder: Path, name: str) -> str:
        """Logs the classifier as a pyfunc from code, registers it once per run, and moves the alias to it."""
        known = self._client.search_model_versions(f"name='{name}' and run_id='{self._run_id}'")
        alias = self.settings.model_alias
        number = known[0].version if known else self._register(folder, name)
        self._client.set_registered_model_alias(name, alias, number)
        return f"models:/{name}@{alias}"

    def finish(self, outcome: Outcome) -> None:
        mlflow.end_run(RunStatus.to_string(_STATUS[outcome]))

    def _register(self, folder: Path, name: str) -> str:
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"model": str(folder.resolve())},
            pip_requirements=["everest-video"],
        )
        return str(mlflow.register_model(logged.model_uri, name).version)

    def _known_run(self, experiment: str) -> str | None:
        file = self.folder / "mlflow-run"
        if not file.exists():
            return None
        run_id = file.read_text()
        try:
            run = mlflow.get_run(run_id)
        except MlflowException:
            return None
        return run_id if run.info.experiment_id == experiment and run.info.lifecycle_stage == "active" else None

    def _last_step(self, key: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(self._run_id, key))


def connect() -> PlatformSettings:
    """Points MLflow to where the settings say."""
    settings = PlatformSettings()
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    if not settings.mlflow_uri:
        settings.work.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.tracking_uri)
    return settings


def load_predictor(address: str) -> Callable[[str | np.ndarray], dict[str, float]]:
    """A registered classifier, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``: video -> class probabilities."""
    connect()
    try:
        model = mlflow.pyfunc.load_model(address)
    except MlflowException as error:
        raise UsageError(f"{address}: {error.message.splitlines()[0]}") from None

    def predict(video: str | np.ndarray) -> dict[str, float]:
        (probabilities,) = model.predict(video)
        return dict(probabilities)

    return predict


def _experiment_id(settings: PlatformSettings) -> str:
    try:
        found = mlflow.get_experiment_by_name(settings.mlflow_experiment)
        if found is None:
            return str(mlflow.create_experiment(settings.mlflow_experiment, settings.artifact_location))
    except MlflowException as error:
        raise EverestError(f"MLflow at {settings.tracking_uri}: {error.message.splitlines()[0]}") from None
    return str(found.experiment_id)


def _git_tags() -> dict[str, str]:
    """The commit of the code that runs, where it runs from a checkout."""
    home = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, check=False)
    if commit.returncode:
        return {}
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=home, capture_output=True, text=True, check=False)
    return {"mlflow.source.git.commit": commit.stdout.strip(), "git.dirty": str(bool(changed.stdout.strip())).lower()}


def _now() -> int:
    return int(time.time() * 1000)
