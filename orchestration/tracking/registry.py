"""Classifiers in the MLflow registry: from a folder of this machine, or from a run's checkpoints in S3."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

import everest
from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.export import CLASSES, EXPERIMENT, WEIGHTS, load_model
from everest.files import sha256
from everest.predict import Predictor
from everest.protocols import BEST, LATEST
from everest.training.local import METRICS, FolderStore
from everest.training.saved import SavedCheckpoints
from orchestration.job import RESULT, RUN_POINTER, TRIAL
from orchestration.outbox import one_line
from orchestration.s3 import S3Store
from orchestration.settings import Alias, ModelName, PlatformSettings, check_argument
from orchestration.tracking.connection import connect
from orchestration.tracking.errors import describe
from orchestration.tracking.presentation import ADDRESS, RUN, run_link, version_note
from orchestration.tracking.tracker import MLflowTracker

_SHA256 = "everest.sha256"
_METRIC = "metric."
_IMPORTED = ("torch", "safetensors", "av", "numpy", "pillow", "pydantic", "pyyaml", "rich")


@dataclass(frozen=True)
class Registered:
    name: str
    version: int
    alias: str | None  # None: it got none
    said: str

    @property
    def address(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def register(
    settings: PlatformSettings, run: str, name: str | None, alias: str | None, promote_if: str | None, best: bool
) -> Registered:
    """Pulls a run's newest (or best) checkpoint that verifies from S3 and makes a model version of it, once.

    Without an ``alias`` a finished run's version gets that of the settings, an unfinished one's none. With
    ``promote_if`` the alias moves only where that metric is better than that of the version which holds it: higher,
    or lower for a loss. Raises UsageError where there is nothing to register or a name cannot be, EverestError where
    the checkpoint is damaged or MLflow refuses.
    """
    name = run if name is None else name
    check_argument("--model", name, ModelName)
    if alias is not None:
        check_argument("--alias", alias, Alias)
    connect(settings)
    store = S3Store(settings, run)
    try:
        finished = store.read(RESULT) is not None
        with tempfile.TemporaryDirectory(prefix="everest-register-") as scratch:
            checkpoint = _fetch(store, Path(scratch) / "checkpoint", best)
            folder = _exported(Path(scratch) / "checkpoint", Path(scratch) / "model")
            said = store.read(RUN_POINTER)
            if said is None:
                raise UsageError(f"{store.address} has no {RUN_POINTER}: the run never reached MLflow")
            found = mlflow.MlflowClient().get_run(json.loads(said)["run"])
            metrics = _metrics(store, checkpoint, Path(scratch) / "checkpoint" / METRICS, found)
            wanted = alias or (settings.model_alias if finished else None)
            return _register(found, folder, name, f"{store.address}{checkpoint}", metrics, wanted, promote_if)
    except MlflowException as error:
        raise _refused(settings, error) from None
    finally:
        store.close()


def register_folder(folder: Path, name: str, run: Run, address: str, metrics: Mapping[str, float]) -> int:
    """A version for the exported classifier in ``folder``, without a pickle; the one there is, if it has been made.

    Its page says what was measured of these weights, and where they come from.
    """
    client = mlflow.MlflowClient()
    digest, info = sha256(folder / WEIGHTS), run.info
    for known in client.search_model_versions(f"name='{name}' and run_id='{info.run_id}'"):
        if known.tags.get(_SHA256) == digest:
            return int(known.version)
    _make_registered_model(client, name)
    model = client.create_logged_model(info.experiment_id, name="model", source_run_id=info.run_id)
    logged = Model.log(
        artifact_path=None,
        flavor=mlflow.pyfunc,
        run_id=info.run_id,
        model_id=model.model_id,
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={"model": str(folder.resolve())},
        code_paths=[str(Path(everest.__file__).parent)],
        pip_requirements=_requirements(Experiment.load(folder / EXPERIMENT)),
    )
    datasets = _datasets(run)
    tags = {_SHA256: digest, RUN: run.data.tags[RUN], ADDRESS: address, **datasets, **_metric_tags(metrics)}
    note = version_note(run_link(str(info.run_name), info.experiment_id, info.run_id), address, metrics, datasets)
    made = client.create_model_version(
        name, logged.model_uri, info.run_id, tags, description=note, model_id=model.model_id
    )
    return int(made.version)


def _make_registered_model(client: mlflow.MlflowClient, name: str) -> None:
    """Where there is none of that name, before anything is uploaded. A prompt's name is refused by the server."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        client.create_registered_model(name)


def _requirements(config: Experiment) -> list[str]:
    """What ``everest.predict`` imports, as installed here; no index has ``everest``, nor builds like +cpu."""
    packages = [*_IMPORTED, "decord"] if config.data.reader == "decord" else _IMPORTED
    return [f"{package}=={metadata.version(package).partition('+')[0]}" for package in packages]


def _fetch(store: S3Store, folder: Path, best: bool) -> str:
    folder.mkdir()
    checkpoints = SavedCheckpoints(store, folder.parent)
    if not best:
        newest = checkpoints.fetch_newest(folder)
        if newest is None:
            raise UsageError(f"{store.address} holds no checkpoint that verifies (EVEREST_S3_PREFIX, the run's name)")
        return newest
    said = store.read(BEST)
    if said is None:
        raise UsageError(f"{store.address} has no best checkpoint; its experiment's keep.best was never measured")
    name = str(json.loads(said)["checkpoint"])
    try:
        checkpoints.fetch(name, folder)
    except (OSError, ValueError, KeyError) as error:
        raise EverestError(f"{store.address}{name} is damaged: {error}") from None
    return name


def _exported(checkpoint: Path, folder: Path) -> Path:
    """The model of a checkpoint without its training state, after loading it once."""
    if Experiment.load(checkpoint / EXPERIMENT).stage == "pretrain":
        raise UsageError("the run is a pre-training; fine-tune from it (--init work/RUN) and register that")
    load_model(checkpoint)
    folder.mkdir()
    for file in (EXPERIMENT, CLASSES, WEIGHTS):
        shutil.move(checkpoint / file, folder / file)
    return folder


def _metrics(store: S3Store, checkpoint: str, file: Path, run: Run) -> Mapping[str, float]:
    """What was measured of these very weights: of the last ones, all; of earlier ones, what was known by then."""
    latest = json.loads(store.read(LATEST) or "{}").get("checkpoint")
    if checkpoint == latest and store.read(RESULT):
        return dict(run.data.metrics)
    metrics: dict[str, float] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        metrics |= json.loads(line)
    best = json.loads(store.read(BEST) or "{}")
    if best.get("checkpoint") == checkpoint:
        metrics[best["metric"]] = best["value"]
    return metrics


def _register(
    run: Run,
    folder: Path,
    name: str,
    address: str,
    metrics: Mapping[str, float],
    alias: str | None,
    promote_if: str | None,
) -> Registered:
    client = mlflow.MlflowClient()
    measured = _measured(metrics)
    tags = _metric_tags(measured)
    metric = None if promote_if is None else _metric(promote_if, tags)
    version = register_folder(folder, name, run, address, measured)
    if alias is None:
        return Registered(
            name, version, None, f"version {version} gets no alias: its run is not finished; --alias NAME gives it one"
        )
    holder = client.get_registered_model(name).aliases.get(alias)
    if metric and holder is not None and int(holder) != version:
        theirs = client.get_model_version(name, holder).tags.get(_METRIC + metric)
        if theirs is None:
            return Registered(
                name, version, None, f"version {holder} keeps {alias!r}: it has no {metric} to compare with"
            )
        ours, lower = float(tags[_METRIC + metric]), "loss" in metric
        if not (ours < float(theirs) if lower else ours > float(theirs)):
            return Registered(
                name, version, None, f"version {holder} keeps {alias!r}: {metric} {theirs} against {ours:g}"
            )
    client.set_registered_model_alias(name, alias, version)
    return Registered(name, version, alias, f"version {version} is {alias!r}")


def _measured(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key.startswith(("val/", "test/"))}


def _metric_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    return {_METRIC + key: f"{value:.6g}" for key, value in metrics.items()}


def _refused(settings: PlatformSettings, error: MlflowException) -> EverestError:
    return EverestError(f"MLflow at {settings.tracking_uri}: {describe(error)}")


def _metric(wanted: str, tags: Mapping[str, str]) -> str:
    """``top1`` is ``test/top1`` where the run was tested, else ``val/top1``."""
    for metric in (wanted, f"test/{wanted}", f"val/{wanted}"):
        if _METRIC + metric in tags:
            return metric
    known = ", ".join(sorted(key.removeprefix(_METRIC) for key in tags if key.startswith(_METRIC))) or "none yet"
    raise UsageError(f"--promote-if {wanted}: the run has no such metric; it has: {known}")


def _datasets(run: Run) -> dict[str, Any]:
    entries = run.inputs.dataset_inputs if run.inputs else []
    return {
        f"everest.dataset.{next((tag.value for tag in entry.tags if tag.key == 'mlflow.data.context'), 'data')}":
        f"{entry.dataset.name} {entry.dataset.digest}"
        for entry in entries
    }  # fmt: skip


class RegisteringTracker(MLflowTracker):
    """For a run on this machine: makes a version of its classifier at the end, unless it is a sweep's trial."""

    def __init__(self, config: Experiment, folder: Path) -> None:
        address = f"{folder.resolve()}/"
        super().__init__(config, folder, FolderStore(folder), connect(), {ADDRESS: address})

    def model(self, folder: Path, name: str) -> str | None:
        if TRIAL in self.tags:
            return None
        self.flush()
        try:
            found = self.client.get_run(self.run_id)
            version = register_folder(folder, name, found, str(folder), _measured(found.data.metrics))
            self.client.set_registered_model_alias(name, self.settings.model_alias, version)
        except MlflowException as error:
            raise _refused(self.settings, error) from None
        return f"models:/{name}@{self.settings.model_alias}"


def load_predictor(address: str) -> Predictor:
    """A registered classifier, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``: video -> class probabilities.

    Its files are read by this installation; code that lies beside them is never run. Raises UsageError where there is
    no such version, EverestError where its weights are not those that were registered.
    """
    connect()
    found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", address)
    if not found:
        raise UsageError(f"{address}: a registered model is models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = found.groups()
    client = mlflow.MlflowClient()
    try:
        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        with tempfile.TemporaryDirectory(prefix="everest-model-") as scratch:
            mlflow.artifacts.download_artifacts(f"models:/{name}/{version.version}", dst_path=scratch)
            weights = [file for file in Path(scratch).rglob(WEIGHTS) if (file.parent / EXPERIMENT).is_file()]
            if len(weights) != 1 or _SHA256 not in version.tags:
                raise UsageError(f"{address}: no classifier that everest registered")
            if sha256(weights[0]) != version.tags[_SHA256]:
                raise EverestError(f"{address}: its weights are not those that were registered (tag {_SHA256})")
            return Predictor(weights[0].parent)
    except MlflowException as error:
        raise UsageError(f"{address}: {one_line(error)}") from None
