"""A sweep's best trials in a real S3 server and a real MLflow: the others' checkpoints go, nothing that is needed."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from orchestration.gc.facts import Shelf, place_of
from orchestration.job import STUDY, TRIAL
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from orchestration.tracking.presentation import ADDRESS
from sweeps.keeping import Keeping
from sweeps.study import Study
from tests.contracts.test_gc import Jobs, Killed, keep, mlflow_client, mlflow_file, settings, there
from tests.services import until
from tests.sweeps.test_controller import space

__all__ = ["mlflow_file", "settings"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves

#: By number: val/top1, or how else it ended.
TRIALS = [0.1, 0.3, "pruned", "running", 0.05, 0.04, 0.03]
RUNNING, VERSIONED, BEGUN_FROM, ENDING = (f"books-{number}" for number in range(3, 7))


@pytest.fixture
def study() -> Study:
    found = Study.begin("books", space(), optuna.storages.InMemoryStorage())
    for value in TRIALS:
        trial = found.draw()
        if isinstance(value, float):
            found.tell(trial, TrialState.COMPLETE, [value])
        elif value != "running":
            found.tell(trial, TrialState.PRUNED)
    return found


@pytest.fixture
def runs(settings: PlatformSettings, tmp_path: Path) -> dict[str, str]:
    """Ids in MLflow."""
    found = {}
    for number, value in enumerate(TRIALS):
        tags = {STUDY: "books", TRIAL: f"books/{number}"}
        found[f"books-{number}"] = keep(settings, f"books-{number}", tmp_path, isinstance(value, float), tags=tags)
    keep(settings, "mine", tmp_path, init=f"work/{BEGUN_FROM}")
    name = f"model-{settings.s3_prefix.replace('/', '-')}"
    client = mlflow_client(settings)
    client.create_registered_model(name)
    at = f"{S3Store(settings, VERSIONED).address}step-00000002"
    client.create_model_version(name, "s3://elsewhere", None, {ADDRESS: at})
    return found


def test_what_cannot_be_among_the_best_goes_however_often_it_is_killed_and_what_is_needed_stays(
    settings: PlatformSettings, study: Study, runs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, kills, files = Jobs(), 0, list[str]()
    jobs.there = {ENDING: "", RUNNING: ""}
    delete = S3Store.delete

    def controller() -> Keeping:
        return Keeping(study, 1, lambda: Shelf(settings, jobs, place_of("kubernetes", settings)))  # type: ignore[arg-type]

    def dying(self: S3Store, key: str) -> None:
        delete(self, key)
        files.append(key)
        if len(files) % 5 == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "delete", dying)
        while True:
            try:
                controller().finish()
                break
            except Killed:
                kills += 1
    assert kills == len(files) // 5 > 3
    gone = {"books-0", "books-2"}
    client = mlflow_client(settings)
    for name, run in runs.items():
        assert ("step" in there(settings, name)) == (name not in gone), name
        assert {"logs", "notes.txt", "starts"} <= there(settings, name), "nothing else goes"
        assert client.get_run(run).data.tags.get("everest.removed", "").startswith("checkpoints on 2") == (name in gone)

    jobs.there = {RUNNING: ""}
    keeping = controller()
    keeping.ended(6, TrialState.COMPLETE, [ENDING], {}, "")
    until(lambda: "step" not in there(settings, ENDING), "what goes when its job has ended")
    keeping.close()


def test_all_stay_where_all_are_kept(settings: PlatformSettings, study: Study) -> None:
    def shelf() -> Shelf:
        raise AssertionError("nothing is looked at")

    keeping = Keeping(study, None, shelf)
    keeping.ended(3, TrialState.PRUNED, [], {}, "")
    keeping.finish()
    keeping.close()
