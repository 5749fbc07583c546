"""A run's log as artifacts of the run in MLflow, a file a start."""

import json
import logging
import tempfile
from pathlib import Path

from orchestration.job import RUN_POINTER
from orchestration.kept_log import KeptLog
from orchestration.log import Numbered, Starts, Wanted
from orchestration.outbox import Outbox
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

FOLDER = "logs"
_PATIENCE_S = 60  # no more than a job may last longer for it


def log_to_mlflow(settings: PlatformSettings, run: str) -> None:
    """What was kept of it, and its GPU hours; does nothing for a run that MLflow does not have.

    Raises EverestError, MlflowException.
    MLflow is imported for a run that has come to it: a pod too small for that could otherwise not even fail.
    """
    store = S3Store(settings.model_copy(update={"patience_s": _PATIENCE_S}), run)
    try:
        if not (said := store.read(RUN_POINTER)):
            return
        from orchestration.tracking.connection import connect
        from orchestration.tracking.errors import describe, passes
        from orchestration.tracking.hours import log_hours

        kept, run_id = KeptLog(run, store), json.loads(said)["run"]
        connect(settings)
        uploads = Outbox(f"MLflow at {settings.tracking_uri}", passes, describe)
        try:
            uploads.add(lambda: log_hours(settings, run, run_id))
            uploads.add(lambda: _upload(kept, run_id))
            uploads.flush(_PATIENCE_S)
        finally:
            uploads.close()
    finally:
        store.close()


def _upload(kept: KeptLog, run_id: str) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    there = {item.path: item.file_size for item in client.list_artifacts(run_id, FOLDER)}
    for start in range(1, len(Starts(kept.pieces)) + 1):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"start-{start:03d}.log"
            with file.open("w", encoding="utf-8", newline="\n") as written:
                written.writelines(map(_shown, kept.lines(Wanted(start=start))))
            if there.get(f"{FOLDER}/{file.name}") != file.stat().st_size:
                client.log_artifact(run_id, str(file), FOLDER)


def _shown(said: Numbered) -> str:
    return f"{said.line.moment} {said.text}\n"
