"""What MLflow has of runs, whatever their experiments: records, versions of models, sweeps."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from everest.errors import EverestError
from orchestration.gc.rules import Sweep, Trial
from orchestration.job import KIND, OBJECTIVES, STUDY, TRIAL, TRIAL_STATE
from orchestration.s3_errors import OF_S3
from orchestration.s3_errors import describe as of_s3
from orchestration.settings import PlatformSettings
from orchestration.tracking.connection import connect
from orchestration.tracking.errors import describe
from orchestration.tracking.presentation import ADDRESS, NAMESPACE, RUN

REMOVED = "everest.removed"  # a tag: what of a run is gone, and why
_PAGE = 1000


@dataclass(frozen=True)
class Record:
    """A run in MLflow."""

    id: str
    name: str
    address: str  # of its checkpoints; empty: it is no job's
    experiment: str
    status: str  # MLflow's
    began: datetime
    seen: datetime  # its beginning or end
    init: str
    tags: Mapping[str, str]
    artifacts: str  # where they are

    @property
    def namespace(self) -> str:
        return self.tags.get(NAMESPACE, "")


class Records:
    """Every call raises EverestError where MLflow does not answer, or refuses."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.settings = connect(settings)
        self._client = mlflow.MlflowClient()
        with self._asked():
            self._experiments = {
                each.experiment_id: each.name for each in _pages(lambda page: self._client.search_experiments(
                    page_token=page, max_results=_PAGE
                ))
            }  # fmt: skip

    def all(self) -> list[Record]:
        """Of experiments' runs, those that are deleted left out."""
        return [self._record(run) for run in self._search(f"tags.`{RUN}` != ''")]

    def exists(self, run_id: str) -> bool:
        """Whether this MLflow has had such a run, which may be deleted by now."""
        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return False
            raise self._said(error) from None
        return True

    def versions(self, run_id: str | None = None) -> list[tuple[str, str, str]]:
        """Of models: ``name/number``, the id of the run that it was made of, and the address of the checkpoint."""
        which = f"run_id = '{run_id}'" if run_id else ""
        with self._asked():
            found = _pages(lambda page: self._client.search_model_versions(which, page_token=page, max_results=_PAGE))
            return [(f"{each.name}/{each.version}", each.run_id or "", each.tags.get(ADDRESS, "")) for each in found]

    def sweeps(self) -> dict[str, Sweep]:
        runs = list(self._search(f"tags.`{KIND}` != ''"))
        studies = {run.data.tags[STUDY]: run for run in runs if run.data.tags[KIND] == "study"}
        wanted: dict[str, dict[str, str]] = {
            name: json.loads(run.data.tags.get(OBJECTIVES, "{}")) for name, run in studies.items()
        }
        trials: dict[str, dict[int, Trial]] = {name: {} for name in studies}
        for run in runs:
            study, _, number = run.data.tags.get(TRIAL, "").rpartition("/")
            if run.data.tags[KIND] == "trial" and study in trials and number.isdigit():
                values = tuple(run.data.metrics.get(metric, math.nan) for metric in wanted[study])
                trials[study][int(number)] = Trial(run.data.tags.get(TRIAL_STATE, ""), values)
        return {
            name: Sweep(
                tuple(how == "max" for how in wanted[name].values()), trials[name], run.info.status == "RUNNING"
            )
            for name, run in studies.items()
        }

    def mark(self, record: Record, what: str) -> None:
        with self._asked():
            self._client.set_tag(record.id, REMOVED, what)

    def remove_artifacts(self, record: Record) -> None:
        try:
            with self._asked():
                get_artifact_repository(record.artifacts).delete_artifacts()
        except OF_S3 as error:
            raise EverestError(f"{record.artifacts} was not removed: {of_s3(error, self.settings)}") from None

    def remove(self, record: Record) -> None:
        """MLflow can restore it until ``mlflow gc``, without its artifacts."""
        with self._asked():
            self._client.delete_run(record.id)

    def _search(self, what: str) -> Iterator[Any]:
        ids = list(self._experiments)
        if not ids:
            return iter(())
        with self._asked():
            return iter(list(_pages(
                lambda page: self._client.search_runs(ids, what, page_token=page, max_results=_PAGE)
            )))  # fmt: skip

    def _record(self, run: Any) -> Record:
        info, tags = run.info, run.data.tags
        began = datetime.fromtimestamp((info.start_time or 0) / 1000, UTC)
        ended = datetime.fromtimestamp(info.end_time / 1000, UTC) if info.end_time else began
        return Record(
            info.run_id, tags[RUN], tags.get(ADDRESS, ""), self._experiments[info.experiment_id], info.status, began,
            max(began, ended), run.data.params.get("init", ""), tags, info.artifact_uri,
        )  # fmt: skip

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            raise self._said(error) from None

    def _said(self, error: MlflowException) -> EverestError:
        return EverestError(f"MLflow at {self.settings.tracking_uri}: {describe(error)}")


def _pages(page: Any) -> Iterable[Any]:
    """All that is found, page by page."""
    token = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return
