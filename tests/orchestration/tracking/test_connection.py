"""MLflow's database of this machine."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from orchestration.settings import PlatformSettings, sqlite_uri
from orchestration.tracking.connection import connect
from tests.services import HANGS_S, until

MAKING = "from orchestration.tracking.connection import connect; connect()"


@pytest.fixture(autouse=True)
def _where_mlflow_was() -> Iterator[None]:
    yield
    mlflow.set_tracking_uri(None)


@pytest.mark.filterwarnings("ignore")
def test_a_process_killed_while_it_makes_the_database_leaves_none_that_is_half_made(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"

    def made() -> int:
        return sum(part.stat().st_size for part in tmp_path.glob(".mlflow.db.part"))

    making = subprocess.Popen([sys.executable, "-c", MAKING], env={"EVEREST_WORK": str(tmp_path)})
    until(lambda: made() >= 300_000, "a part of a database", every=0.01)
    making.kill()
    assert making.wait(HANGS_S) == -9
    assert not file.exists()

    connect(PlatformSettings(work=tmp_path))
    assert mlflow.create_experiment("first")
    assert [found.name for found in mlflow.MlflowClient(sqlite_uri(file)).search_experiments()] == ["first", "Default"]
