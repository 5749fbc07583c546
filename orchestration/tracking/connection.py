"""Which MLflow, and which of its experiments."""

import logging
import os
from pathlib import Path
from typing import Any

import mlflow
from mlflow.environment_variables import (
    MLFLOW_ALLOW_HTTP_REDIRECTS,
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from everest.errors import UsageError
from everest.files import locked, whole_file
from orchestration.settings import PlatformSettings, sqlite_uri
from orchestration.tracking.presentation import TRAINING


def connect(settings: PlatformSettings | None = None) -> PlatformSettings:
    """Points MLflow to where the settings say."""
    settings = settings or PlatformSettings.load()
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    MLFLOW_ALLOW_HTTP_REDIRECTS.set(False)  # a record that is sent on to a login page is lost
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(20)
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    if settings.s3_endpoint:
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", settings.s3_endpoint)
    if not settings.mlflow_uri:
        _make_database(settings.mlflow_file)
    mlflow.set_tracking_uri(settings.tracking_uri)
    return settings


def _make_database(file: Path) -> None:
    """Whole or not at all: MLflow cannot take up one that it was killed in the making of."""
    if file.exists():
        return
    with locked(file.with_name(f".{file.name}.lock")):
        if not file.exists():
            with whole_file(file) as temporary:
                temporary.unlink(missing_ok=True)
                mlflow.MlflowClient(sqlite_uri(temporary)).search_experiments()


def experiment_id(client: Any, settings: PlatformSettings, name: str) -> str:
    """Made where there is none of that name. Raises UsageError where it is deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, settings.artifact_location, TRAINING))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        found = client.get_experiment_by_name(name)  # another run was quicker
    if found.name != name:
        raise MlflowException("what answers knows no experiments; it is not MLflow")
    if found.lifecycle_stage != "active":
        raise UsageError(f"MLflow experiment {name!r} is deleted; restore it or set EVEREST_MLFLOW_EXPERIMENT")
    return str(found.experiment_id)
