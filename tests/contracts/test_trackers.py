"""A real MLflow server that is away at the worst moments: one run, every number once."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everest.config import Experiment
from everest.errors import EverestError
from everest.training.local import METRICS, FolderStore, JsonLinesTracker, Trackers
from orchestration.outbox import Away
from orchestration.settings import PlatformSettings
from tests.services import Link, MlflowServer, experiments

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself

CONFIG = Experiment().override({"name": "tracked"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("mlflow")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    server = MlflowServer(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), environment, folder / "log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def link(server: MlflowServer) -> Iterator[Link]:
    link = Link(server.address)
    yield link
    link.close()


@pytest.fixture
def settings(link: Link, tmp_path: Path) -> PlatformSettings:
    return PlatformSettings(mlflow_uri=link.address, mlflow_experiment=tmp_path.name, patience_s=30)


def tracker(settings: PlatformSettings, folder: Path) -> Trackers:
    """As a worker puts it together: the numbers also go to a file, from which a next process sends what is missing."""
    from orchestration.tracking.tracker import MLflowTracker, connect

    mlflow = MLflowTracker(CONFIG, folder, FolderStore(folder), connect(settings), {"everest.pod": "pod-0"})
    return Trackers(JsonLinesTracker(folder / METRICS), mlflow)


def report(tracker: Trackers, steps: range) -> None:
    for step in steps:
        tracker.metrics({"train/loss": 1 / step, "train/lr": 0.1}, step)


def logged(settings: PlatformSettings, server: MlflowServer) -> tuple[Any, list[tuple[int, float]]]:
    """The one run there is, and its losses, asked for past the link."""
    import mlflow

    client = mlflow.MlflowClient(server.address)
    (run,) = client.search_runs(experiments(client, settings.mlflow_experiment))
    history = client.get_metric_history(run.info.run_id, "train/loss")
    return run, sorted((metric.step, metric.value) for metric in history)


def losses(last: int) -> list[tuple[int, float]]:
    return [(step, 1 / step) for step in range(1, last + 1)]


def test_an_outage_slows_nothing_and_leaves_no_gap(
    settings: PlatformSettings, server: MlflowServer, link: Link, tmp_path: Path
) -> None:
    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    report(tracked, range(1, 50))
    link.cut()
    started = time.monotonic()
    report(tracked, range(50, 2000))
    assert time.monotonic() - started < settings.patience_s  # two thousand calls, in less than one would wait
    (tmp_path / "picture.png").write_bytes(b"png")
    tracked.artifact(tmp_path / "picture.png", "figures")
    tracked.dataset("videos", "/data/train.csv", "abc", 7, "training")
    link.mend()
    report(tracked, range(2000, 2101))
    tracked.finish("finished")
    run, found = logged(settings, server)
    assert found == losses(2100)
    assert run.info.status == "FINISHED"
    assert run.data.tags["everest.pod"] == "pod-0"
    assert run.data.params["mask.keep_ratio"] == "0.3"
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["videos"]


def test_a_server_that_comes_later_than_the_run_gets_all_of_it(
    settings: PlatformSettings, server: MlflowServer, link: Link, tmp_path: Path
) -> None:
    link.cut()
    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    report(tracked, range(1, 11))
    link.mend()
    tracked.finish("finished")
    run, found = logged(settings, server)
    assert found == losses(10)
    assert json.loads((tmp_path / "mlflow-run.json").read_text())["run"] == run.info.run_id


def test_what_a_killed_process_could_not_send_is_sent_by_the_next(
    settings: PlatformSettings, server: MlflowServer, link: Link, tmp_path: Path
) -> None:
    """Killed after its checkpoint at step 40, with MLflow away since step 20; steps 31 to 40 are only in the file."""
    killed = tracker(settings, tmp_path)
    killed.start(CONFIG.flat(), 0)
    report(killed, range(1, 21))
    killed.trackers[1].flush()  # type: ignore[attr-defined]
    link.cut()
    report(killed, range(21, 46))
    killed.trackers[1]._outbox.close()  # type: ignore[attr-defined]
    killed.trackers[1]._system.stop()  # type: ignore[attr-defined]

    link.mend()
    resumed = tracker(settings, tmp_path)
    resumed.start(CONFIG.flat(), 40)
    report(resumed, range(41, 61))
    resumed.finish("finished")
    _, found = logged(settings, server)
    assert found == losses(60)


def test_a_run_stopped_and_continued_is_one_run(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path
) -> None:
    first = tracker(settings, tmp_path)
    first.start(CONFIG.flat(), 0)
    report(first, range(1, 6))
    first.finish("interrupted")
    assert logged(settings, server)[0].info.status == "KILLED"
    second = tracker(settings, tmp_path)
    second.start(CONFIG.flat(), 3)
    assert logged(settings, server)[0].info.status == "RUNNING"
    report(second, range(4, 9))
    second.finish("finished")
    run, found = logged(settings, server)
    assert (run.info.status, found) == ("FINISHED", losses(8))


def test_a_server_that_stays_away_fails_a_finished_run_loudly_and_an_interrupted_one_not(
    settings: PlatformSettings, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.tracking import tracker as module

    monkeypatch.setattr(module, "_LAST_WORDS_S", 0.5)
    impatient = settings.model_copy(update={"patience_s": 1})
    for outcome in ("interrupted", "finished"):
        tracked = tracker(impatient, tmp_path)
        tracked.start(CONFIG.flat(), 0)
        link.cut()
        report(tracked, range(1, 3))
        if outcome == "interrupted":
            tracked.finish("interrupted")
        else:
            with pytest.raises(Away, match=r"MLflow at http.* 1 s; the checkpoints are kept, the same command sends"):
                tracked.finish("finished")
        link.mend()


def test_a_deleted_experiment_is_refused_at_the_start(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path
) -> None:
    import mlflow

    client = mlflow.MlflowClient(server.address)
    client.delete_experiment(client.create_experiment(f"{settings.mlflow_experiment}/data/pretrain"))
    with pytest.raises(EverestError, match=r"experiment '.*' is deleted; restore it or set EVEREST_MLFLOW_EXPERIMENT"):
        tracker(settings, tmp_path).start(CONFIG.flat(), 0)


def test_what_mlflow_refuses_is_said_and_stops_nothing(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    report(tracked, range(1, 3))
    tracked.metrics({300 * "x": 1.0}, 3)
    report(tracked, range(4, 6))
    tracked.finish("finished")
    assert [step for step, _ in logged(settings, server)[1]] == [1, 2, 4, 5]
    assert "refuses a record" in caplog.text
