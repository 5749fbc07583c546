"""The chart's upgrade hook on real databases: MLflow's as its first release made it, the others not made yet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.platform import ROOT
from tests.services import postgres

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself


def test_the_upgrade_hook_brings_the_first_schema_to_todays_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    import mlflow
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import NullPool, create_engine, text

    def ask(address: str, query: str) -> object:
        with create_engine(address, poolclass=NullPool).connect() as connection:
            return connection.execute(text(query)).scalar_one()

    revision = "select version_num from alembic_version"
    new = f"sqlite:///{tmp_path}/new.db"
    mlflow.MlflowClient(new).search_experiments()
    names = ("studies", "auth")
    with postgres(more=names) as address:
        others = {f"{name.upper()}_URI": address.replace("/mlflow", f"/{name}") for name in names}
        engine = create_engine(address, poolclass=NullPool)
        Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(text("insert into experiments values (7, 'old', 's3://bucket/7', 'active')"))

        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        for _ in range(2):  # done again, it changes nothing
            done = subprocess.run(
                ["sh", ROOT / "helm/everest/files/migrate.sh"],
                env={**os.environ, "PATH": path, "MLFLOW_URI": address, **others},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert ask(address, revision) == ask(new, revision)
        assert ask(address, "select name from experiments where experiment_id = 7") == "old"
        assert ask(others["STUDIES_URI"], "select count(*) from studies") == 0
        assert ask(others["AUTH_URI"], "select count(*) from users") == 0
