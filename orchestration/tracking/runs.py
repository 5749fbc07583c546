"""What MLflow knows of runs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
from mlflow.exceptions import MlflowException

from everest.errors import EverestError
from orchestration.job import MLFLOW_PAGES, Unreachable
from orchestration.settings import PlatformSettings
from orchestration.tracking.connection import connect
from orchestration.tracking.errors import describe, passes
from orchestration.tracking.presentation import IDLE, NAMESPACE, NODE, RUN, SUBMISSION, USER, run_page

_FIGURES = "figures"  # where runs put them
_GOES_ON = "attributes.status = 'RUNNING'"
_PAGE, _MOST = 1000, 100_000


class Measured(NamedTuple):
    step: int
    value: float


Latest = Mapping[str, Measured]  # the newest number of each metric


class Seen(NamedTuple):
    """A run, as a list shows it."""

    name: str
    user: str
    node: str
    status: str  # MLflow's
    began: datetime
    ended: datetime | None  # None: it goes on, for all that MLflow knows
    latest: Latest
    parameters: Mapping[str, str]
    idle: str  # what is said of its GPUs


class Runs:
    """Reads runs of the settings' experiments. Every call raises Unreachable while MLflow is away."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.settings = connect(settings)
        self.client = mlflow.MlflowClient()
        self._ids: dict[str, str] = {}  # of runs that were seen, by name

    def latest(self, name: str) -> Latest | None:
        """Of the newest run of that name; None where there is none."""
        found = self._search(f"tags.`{RUN}` = '{name}'", 1)
        return _latest(found[0]) if found else None

    def tag(self, name: str, tag: str) -> str | None:
        """Of the newest run of that name that has it."""
        found = self._search(f"tags.`{RUN}` = '{name}' and tags.`{tag}` != ''", 1)
        return str(found[0].data.tags[tag]) if found else None

    def page(self, name: str) -> str:
        """Where a browser shows the newest run of that name; empty where that is not known."""
        server = os.environ.get(MLFLOW_PAGES) or self.settings.mlflow_uri or ""
        found = self._search(f"tags.`{RUN}` = '{name}'", 1) if server.startswith("http") else []
        return run_page(server, found[0].info.experiment_id, found[0].info.run_id) if found else ""

    def submitted(self, submission: str) -> bool:
        """Whether a job of that submission has got as far as MLflow."""
        return bool(self._search(f"tags.`{SUBMISSION}` = '{submission}'", 1))

    def running(self, tag: str, value: str) -> dict[str, Latest]:
        """Of all runs so tagged that go on, by their names, in one request."""
        found = self._search(f"tags.`{tag}` = '{value}' and {_GOES_ON}", 1000)
        named = {run.data.tags[RUN]: run for run in found if RUN in run.data.tags}
        self._ids |= {name: run.info.run_id for name, run in named.items()}
        return {name: _latest(run) for name, run in named.items()}

    def seen(self, namespace: str, since: datetime) -> list[Seen]:
        """All runs of a namespace (empty: of no cluster) that go on, or have ended since then."""
        ours = f"tags.`{RUN}` != ''" + (f" and tags.`{NAMESPACE}` = '{namespace}'" if namespace else "")
        which = (_GOES_ON, f"attributes.end_time >= {since.timestamp() * 1000:.0f}")
        found = {run.info.run_id: run for one in which for run in self._search(f"{ours} and {one}", _MOST)}
        return [_seen(run) for run in found.values() if run.data.tags.get(NAMESPACE, "") == namespace]

    def history(self, name: str, metric: str) -> list[Measured]:
        """Of the newest run of that name; the first first; empty where there is none."""
        run_id = self._id(name)
        if run_id is None:
            return []
        with self._asked():
            entries = self.client.get_metric_history(run_id, metric)
        return sorted(Measured(entry.step, entry.value) for entry in entries)

    def picture(self, name: str) -> bytes | None:
        """The PNG that the newest run of that name drew at its end; None where there is none."""
        run_id = self._id(name)
        if run_id is None:
            return None
        with self._asked(), TemporaryDirectory() as folder:
            found = [each.path for each in self.client.list_artifacts(run_id, _FIGURES) if each.path.endswith(".png")]
            drawn = sorted(path for path in found if not path.rpartition("/")[2].startswith("step-"))
            return Path(self.client.download_artifacts(run_id, drawn[0], folder)).read_bytes() if drawn else None

    def _id(self, name: str) -> str | None:
        if name not in self._ids:
            found = self._search(f"tags.`{RUN}` = '{name}'", 1)
            if not found:
                return None
            self._ids[name] = found[0].info.run_id
        return self._ids[name]

    def _search(self, what: str, most: int) -> list[Any]:
        with self._asked():
            ours = f"{self.settings.mlflow_experiment}/"
            like = self.client.search_experiments(filter_string=f"name LIKE '{ours}%'")
            experiments = [each for each in like if each.name.startswith(ours)]  # LIKE takes _ for any letter
            if not experiments:
                return []
            ids = [each.experiment_id for each in experiments]
            found: list[Any] = []
            token = None
            while len(found) < most:
                page = self.client.search_runs(ids, what, max_results=min(_PAGE, most - len(found)), page_token=token)
                found += page
                if not (token := page.token):
                    break
            return found

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            kind = Unreachable if passes(error) else EverestError
            raise kind(f"MLflow at {self.settings.tracking_uri}: {describe(error)}") from None


def _latest(run: Any) -> Latest:
    return {each.key: Measured(each.step, each.value) for each in run.data.to_proto().metrics}


def _seen(run: Any) -> Seen:
    tags, info = run.data.tags, run.info
    ended = _moment(info.end_time) if info.end_time else None
    return Seen(
        tags[RUN], tags.get(USER, ""), tags.get(NODE, ""), info.status, _moment(info.start_time or 0), ended,
        _latest(run), run.data.params, tags.get(IDLE, ""),
    )  # fmt: skip


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
