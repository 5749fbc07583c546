"""A real MLflow server that is away at the worst moments: one run, every number once."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from everest.config import Experiment
from everest.errors import EverestError
from everest.training.local import METRICS, FolderStore, JsonLinesTracker, Trackers
from orchestration.idle import IdleGpus
from orchestration.job import CODE_FOLDER
from orchestration.outbox import Away
from orchestration.provenance import CHANGES
from orchestration.settings import PlatformSettings
from tests.services import Answer, Gate, Link, MlflowServer, experiments, until

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
    return PlatformSettings(mlflow_uri=link.address, mlflow_experiment=tmp_path.name, patience_s=300)


def tracker(settings: PlatformSettings, folder: Path) -> Trackers:
    """As a worker puts it together: the numbers also go to a file, from which a next process sends what is missing."""
    from orchestration.tracking.connection import connect
    from orchestration.tracking.tracker import MLflowTracker

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


def test_gpus_that_idle_are_a_tag_of_the_run_until_they_work_again_and_news(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what a driver would say."""
    from orchestration.tracking import system
    from orchestration.tracking.connection import connect
    from orchestration.tracking.tracker import MLflowTracker

    busy, told = [1.0], []
    monkeypatch.setattr(system, "EVERY_S", 0.2)
    monkeypatch.setattr(GPUMonitor, "__init__", BaseMetricsMonitor.__init__)
    monkeypatch.setattr(
        GPUMonitor, "collect_metrics", lambda gpus: gpus._metrics["gpu_0_utilization_percentage"].append(busy[0])
    )
    settings = settings.model_copy(update={"idle_s": 60})
    idle = IdleGpus(settings, told.append, told.append)
    tracked = MLflowTracker(CONFIG, tmp_path, FolderStore(tmp_path), connect(settings), {}, idle)
    tracked.start(CONFIG.flat(), 0)

    def tag() -> str:
        run, _ = logged(settings, server)
        return str(run.data.tags["everest.idle"])

    assert until(tag, "the tag") == told[0]
    assert "idled: 1.0 % busy over 1m" in told[0]
    busy[0] = 90.0
    until(lambda: not tag(), "the tag to go")
    tracked.finish("finished")
    assert len(told) == 1


def test_the_patch_to_the_code_that_was_sent_along_is_kept_with_the_run(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    patch = tmp_path / "code" / CHANGES
    patch.parent.mkdir(parents=True)
    patch.write_text("diff --git a/x b/x\n")
    monkeypatch.setenv(CODE_FOLDER, str(tmp_path / "code"))
    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    tracked.finish("finished")
    run, _ = logged(settings, server)
    kept = mlflow.MlflowClient(server.address).download_artifacts(run.info.run_id, "code/changes.patch", str(tmp_path))
    assert Path(kept).read_text() == patch.read_text()


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


def test_another_experiment_under_a_name_that_never_made_a_step_is_a_run_of_its_own(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path
) -> None:
    import mlflow

    for rate in (0.1, 0.1, 0.2):
        tracked = tracker(settings, tmp_path)
        tracked.start({**CONFIG.flat(), "optim.lr": rate}, 0)
        tracked.finish("failed")
    client = mlflow.MlflowClient(server.address)
    runs = client.search_runs(experiments(client, settings.mlflow_experiment))
    assert sorted(run.data.params["optim.lr"] for run in runs) == ["0.1", "0.2"]


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
            with pytest.raises(Away, match=r"MLflow at http.* 1 s.*; the checkpoints are kept, the same command sends"):
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


LOGIN = "<!DOCTYPE html><html>please log in</html>"
STRANGERS = {
    "401": Answer(401, "You are not authenticated."),
    "401 in JSON": Answer(401, '{"message": "token expired"}', "application/json"),
    "403": Answer(403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "application/json"),
    "404 of an ingress": Answer(404, "<html>nginx</html>"),
    "404 in JSON": Answer(404, '{"error_code": 404, "message": "no route"}', "application/json"),
    "ENDPOINT_NOT_FOUND": Answer(404, '{"error_code": "ENDPOINT_NOT_FOUND", "message": "?"}', "application/json"),
    "400 of a proxy": Answer(400, "<html>bad request</html>"),
    "413": Answer(413, "<html>too large</html>"),
    "login page": Answer(200, LOGIN),
    "redirect": Answer(302, location="/login"),
    "redirect loop": Answer(307, location="/api/2.0/mlflow/runs/log-batch"),
    "JSON of something else": Answer(200, '{"status": "please log in"}', "application/json"),
    "nothing": Answer(200),
}


@pytest.fixture
def gate(server: MlflowServer) -> Iterator[Gate]:
    gate = Gate(server.address)
    yield gate
    gate.close()


@pytest.fixture
def through(gate: Gate, tmp_path: Path) -> PlatformSettings:
    return PlatformSettings(mlflow_uri=gate.address, mlflow_experiment=tmp_path.name, patience_s=300)


def test_who_answers_in_place_of_mlflow_makes_no_number_lost(
    through: PlatformSettings, server: MlflowServer, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expired token, a login page, an ingress without its server: one after the other, in the middle of a run."""
    monkeypatch.setattr("orchestration.outbox.LONGEST_WAIT_S", 0.1)
    tracked = tracker(through, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    report(tracked, range(1, 6))
    step = 6
    for answer in STRANGERS.values():
        gate.asked.clear()
        gate.instead = lambda _method, path, answer=answer: answer if "log-batch" in path else None  # type: ignore[misc]
        report(tracked, range(step, step + 5))
        step += 5
        until(lambda: gate.asked, "a record that is not taken", every=0.01)
        gate.instead = lambda _method, _path: None
    (tmp_path / "picture.png").write_bytes(b"png")
    tracked.artifact(tmp_path / "picture.png")
    tracked.finish("finished")
    run, found = logged(through, server)
    assert found == losses(step - 1)
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("who", [name for name in STRANGERS if name != "413"])
def test_who_answers_in_place_of_mlflow_is_said_at_the_start(
    through: PlatformSettings, gate: Gate, tmp_path: Path, who: str
) -> None:
    gate.instead = lambda _method, _path: STRANGERS[who]
    with pytest.raises(EverestError, match=rf"^MLflow at {gate.address}: .*\(EVEREST_MLFLOW_URI") as error:
        tracker(through, tmp_path).start(CONFIG.flat(), 0)
    assert "\n" not in str(error.value)


def test_a_run_that_goes_on_waits_until_it_is_let_in_again(
    through: PlatformSettings, server: MlflowServer, gate: Gate, tmp_path: Path
) -> None:
    """As a pod that was replaced while a token had expired."""
    first = tracker(through, tmp_path)
    first.start(CONFIG.flat(), 0)
    report(first, range(1, 6))
    first.finish("interrupted")
    gate.instead = lambda _method, _path: STRANGERS["401"]
    second = tracker(through, tmp_path)
    second.start(CONFIG.flat(), 5)
    report(second, range(6, 9))
    gate.instead = lambda _method, _path: None
    second.finish("finished")
    assert logged(through, server)[1] == losses(8)


def test_a_run_that_is_never_let_in_again_ends_with_a_line_and_its_numbers_are_sent_by_the_next(
    through: PlatformSettings, server: MlflowServer, gate: Gate, tmp_path: Path
) -> None:
    impatient = through.model_copy(update={"patience_s": 1})
    first = tracker(impatient, tmp_path)
    first.start(CONFIG.flat(), 0)
    first.trackers[1].flush()  # type: ignore[attr-defined]
    gate.instead = lambda _method, _path: STRANGERS["login page"]
    report(first, range(1, 6))
    with pytest.raises(Away, match=r"MLflow at http.* 1 s.*; the checkpoints are kept, the same command sends"):
        first.finish("finished")
    gate.instead = lambda _method, _path: None
    second = tracker(through, tmp_path)
    second.start(CONFIG.flat(), 5)
    second.finish("finished")
    assert logged(through, server)[1] == losses(5)


def test_a_deleted_run_is_made_again_with_all_it_had(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    tracked.dataset("videos", "/data/train.csv", "abc", 7, "training")
    (tmp_path / "picture.png").write_bytes(b"png")
    tracked.artifact(tmp_path / "picture.png", "figures")
    report(tracked, range(1, 6))
    tracked.trackers[1].flush()  # type: ignore[attr-defined]
    client = mlflow.MlflowClient(server.address)
    gone = logged(settings, server)[0].info.run_id
    client.delete_run(gone)
    report(tracked, range(6, 9))
    tracked.finish("finished")
    run, found = logged(settings, server)
    assert (run.info.run_id != gone, run.info.status, found) == (True, "FINISHED", losses(8))
    assert run.data.params["mask.keep_ratio"] == "0.3"
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["videos"]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/picture.png"]
    assert json.loads((tmp_path / "mlflow-run.json").read_text())["run"] == run.info.run_id
    assert f"the run {gone} was deleted in MLflow" in caplog.text
    assert "refuses" not in caplog.text


def test_an_experiment_that_is_deleted_meanwhile_is_waited_for(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    report(tracked, range(1, 6))
    tracked.trackers[1].flush()  # type: ignore[attr-defined]
    client = mlflow.MlflowClient(server.address)
    (experiment,) = experiments(client, settings.mlflow_experiment)
    client.delete_experiment(experiment)
    report(tracked, range(6, 9))
    until(lambda: "is deleted; restore it" in caplog.text, "a line", every=0.05)
    client.restore_experiment(experiment)
    tracked.finish("finished")
    assert logged(settings, server)[1] == losses(8)


def test_an_artifact_that_is_not_taken_holds_up_no_number_and_is_not_forgotten(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path
) -> None:
    import mlflow

    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    (tmp_path / "picture.png").write_bytes(b"png")
    client = mlflow.MlflowClient(server.address)
    run, _ = logged(settings, server)
    place = Path(run.info.artifact_uri)
    place.mkdir(parents=True, exist_ok=True)
    (place / "figures").write_text("a file where the folder should be")  # as a bucket that refuses would
    tracked.artifact(tmp_path / "picture.png", "figures")
    report(tracked, range(1, 6))
    until(lambda: logged(settings, server)[1] == losses(5), "the numbers")
    (place / "figures").unlink()
    tracked.finish("finished")
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/picture.png"]


def test_only_what_mlflow_refuses_is_dropped_and_that_is_said_once(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    tracked = tracker(settings, tmp_path)
    tracked.start({**CONFIG.flat(), 300 * "y": "z", "odd": "\udcff.mp4"}, 0)
    for step in range(1, 4):
        tracked.metrics({"train/loss": 1 / step, 300 * "x": 1.0, "train/lr": float("nan")}, step)
    tracked.finish("finished")
    run, found = logged(settings, server)
    assert found == losses(3)
    assert (run.data.params["mask.keep_ratio"], run.data.params["odd"]) == ("0.3", "\\udcff.mp4")
    rates = mlflow.MlflowClient(server.address).get_metric_history(run.info.run_id, "train/lr")
    assert [metric.step for metric in rates if metric.value != metric.value] == [1, 2, 3]
    lines = [record.message for record in caplog.records if "refuses" in record.message]
    assert [(300 * "x" in line, "Param key" in line) for line in lines] == [(False, True), (True, False)]


def test_names_that_are_not_text_are_written_as_what_they_are(
    settings: PlatformSettings, server: MlflowServer, tmp_path: Path
) -> None:
    import mlflow

    odd = os.fsdecode(b"caf\xe9 #1%20?$\xc3\xa9.png")
    (tmp_path / odd).write_bytes(b"png")
    tracked = tracker(settings, tmp_path)
    tracked.start(CONFIG.flat(), 0)
    tracked.dataset(odd, str(tmp_path / odd), "abc", 7, "training")
    tracked.artifact(tmp_path / odd, "figures")
    tracked.finish("finished")
    run, _ = logged(settings, server)
    readable = "caf\\udce9 #1%20?$\u00e9.png"
    assert run.inputs.dataset_inputs[0].dataset.name == readable
    client = mlflow.MlflowClient(server.address)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == [f"figures/{readable}"]
