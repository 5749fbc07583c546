"""Old runs in a real S3 server and a real MLflow: what rules name goes, what is needed stays, wherever it is ended."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from everest.config import Experiment
from everest.protocols import LATEST
from everest.training.checkpoint import Checkpoints
from everest.training.local import FolderStore
from everest.training.manifest import removal_order
from everest.training.saved import SavedCheckpoints
from orchestration.cli import main
from orchestration.gc import archives, command
from orchestration.gc.facts import Shelf
from orchestration.job import Needs
from orchestration.s3 import Entry, S3Store
from orchestration.settings import PlatformSettings
from orchestration.tracking.presentation import ADDRESS, RUN
from tests.services import s3_settings

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves


class Killed(BaseException):
    """The process ends here."""


class Jobs:
    """The launcher that the command asks."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}  # and what they begin from
        self.code: dict[str, str] = {}

    def needs(self) -> Mapping[str, Needs]:
        return {name: Needs([init] if init else [], self.code.get(name, "")) for name, init in self.there.items()}


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    jobs = Jobs()
    monkeypatch.setattr(command, "open_launcher", lambda name, settings: jobs)
    return jobs


@pytest.fixture(scope="module")
def mlflow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, mlflow_file: Path, tmp_path: Path) -> PlatformSettings:
    found = s3_settings(monkeypatch, work=tmp_path, mlflow_uri=f"sqlite:///{mlflow_file}")
    for name, value in found.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", str(found.s3_endpoint))
    return found


def save(store: Any, scratch: Path, steps: int = 2) -> None:
    checkpoints = Checkpoints(store, scratch, keep=9)
    for step in range(1, steps + 1):
        weights = {"weight": torch.full((64,), float(step))}
        checkpoints.save(step, weights, {"step": step}, {"experiment.yaml": Experiment().to_yaml()})
        checkpoints.finish()
        checkpoints.mark_best("top1", step)
    checkpoints.finish()


def keep(
    settings: PlatformSettings,
    name: str,
    tmp_path: Path,
    finished: bool = True,
    init: str = "None",
    tags: Mapping[str, str] | None = None,
) -> str:
    """A run as its job leaves it; the id of its record."""
    from orchestration.tracking.connection import connect, experiment_id

    client = mlflow_client(connect(settings))
    where = client.get_experiment(experiment_id(client, settings, f"{settings.mlflow_experiment}/gc/finetune"))
    place = f"s3://{settings.s3_bucket}/{settings.s3_prefix}/mlflow"
    if where.artifact_location != place:  # one of a test before
        where = client.get_experiment(client.create_experiment(f"everest/gc/{settings.s3_prefix}", place))
        client.rename_experiment(experiment_id(client, settings, f"{settings.mlflow_experiment}/gc/finetune"),
                                 f"everest/before/{settings.s3_prefix}")  # fmt: skip
        client.rename_experiment(where.experiment_id, f"{settings.mlflow_experiment}/gc/finetune")
    store = S3Store(settings, name)
    run = client.create_run(where.experiment_id, tags={RUN: name, ADDRESS: store.address, **(tags or {})}).info.run_id
    client.log_param(run, "init", init)
    client.log_text(run, "picture", "figures/picture.txt")
    client.set_terminated(run, "FINISHED" if finished else "FAILED")
    store.point("mlflow-run.json", json.dumps({"run": run}))
    store.point("starts/0.json", "{}")
    store.write("logs/20261128T000000.000000Z-00000/rank-00000-000001.gz", b"said")
    store.write("stalls/nccl-20261128T000000Z-3", b"collectives")
    store.write("notes.txt", b"somebody's")
    save(store, tmp_path / name)
    if finished:
        store.point("result.json", json.dumps({"experiment": {"init": init}}))
    store.close()
    return str(run)


def mlflow_client(_: PlatformSettings) -> Any:
    import mlflow

    return mlflow.MlflowClient()


def gc(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["gc", *words])
    return int(ended.value.code or 0)


def there(settings: PlatformSettings, name: str) -> set[str]:
    """First parts of the run's keys."""
    return {key.partition("/")[0].partition("-0")[0] for key in S3Store(settings, name).list()}


def test_nothing_goes_without_being_told_to_and_then_only_what_nobody_needs(
    settings: PlatformSettings, jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {name: keep(settings, name, tmp_path) for name in ("old", "base", "continued", "versioned", "started")}
    runs["tuned"] = keep(settings, "tuned", tmp_path, init="work/base")
    runs["bad"] = keep(settings, "bad", tmp_path, finished=False)
    client = mlflow_client(settings)
    client.create_registered_model(f"model-{settings.s3_prefix.replace('/', '-')}")
    client.create_model_version(
        f"model-{settings.s3_prefix.replace('/', '-')}", "s3://elsewhere", None,
        {ADDRESS: f"{S3Store(settings, 'versioned').address}step-00000002"},
    )  # fmt: skip
    jobs.there = {"continued": "", "fresh": "work/started"}
    before = {name: S3Store(settings, name).list() for name in runs}
    assert gc("--older", "0s", "--what", "checkpoints", "logs") == 0
    said = capsys.readouterr()
    assert "nothing was removed; --delete does it" in said.err
    for name, why in (
        ("base", "tuned begins from it"),
        ("continued", "its job goes on, or may be continued"),
        ("started", "fresh begins from it"),
        ("versioned", "model version model-"),
    ):
        assert any(line.split()[:1] == [name] and why in line for line in said.out.splitlines()), said.out
    assert {name: S3Store(settings, name).list() for name in runs} == before

    assert gc("--older", "0s", "--what", "checkpoints", "logs", "--delete") == 0
    kept = {"base", "continued", "versioned", "started"}
    for name, run in runs.items():
        if name in kept:
            assert S3Store(settings, name).list() == before[name]
        else:
            assert there(settings, name) == {"notes.txt", "starts"} | (
                {"result.json", "mlflow-run.json"} if name != "bad" else set()
            )
            assert "checkpoints, logs on 2" in client.get_run(run).data.tags["everest.removed"]
            assert client.list_artifacts(run)

    assert gc("--older", "0s", "--what", "runs", "--delete") == 0
    for name, run in runs.items():
        gone = name not in kept
        assert (client.get_run(run).info.lifecycle_stage == "deleted") == gone
        assert (there(settings, name) == {"notes.txt"}) == gone
        assert bool(client.list_artifacts(run)) != gone
    assert gc("--older", "0s", "--what", "runs", "--delete") == 0, "what tuned from it is gone now"
    assert there(settings, "base") == {"notes.txt"}
    assert there(settings, "versioned") > {"step"}


def test_killed_at_any_file_it_leaves_whole_checkpoints_and_goes_on_when_typed_again(
    settings: PlatformSettings, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = keep(settings, "old", tmp_path)
    store, kills = S3Store(settings, "old"), 0
    delete = S3Store.delete

    def killed(self: S3Store, key: str) -> None:
        delete(self, key)
        raise Killed

    monkeypatch.setattr(S3Store, "delete", killed)
    while True:
        try:
            gc("--older", "0s", "--what", "runs", "--delete")
            break
        except Killed:
            kills += 1
        saved = SavedCheckpoints(store, tmp_path / "scratch")
        newest = saved.newest()
        assert newest is None or (newest.step == 2 and newest.weights["weight"][0] == 2)
        assert not saved.passed_over
        latest = store.read(LATEST)
        assert latest is None or (newest and json.loads(latest)["checkpoint"] == newest.name)
        assert mlflow_client(settings).get_run(run).info.lifecycle_stage == "active"
    assert store.list() == ["notes.txt"]
    assert kills == 2 + 2 * 4 + 2 + 3
    assert mlflow_client(settings).get_run(run).info.lifecycle_stage == "deleted"


def test_what_changes_while_it_decides_stays(
    settings: PlatformSettings, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("touched", "submitted", "begun"):
        keep(settings, name, tmp_path)
    before = {name: S3Store(settings, name).list() for name in ("submitted", "begun")}

    def show(verdicts: list[Any]) -> None:
        assert sum(bool(verdict.parts) for verdict in verdicts) == 3
        jobs.there = {"submitted": "", "other": "work/begun"}
        S3Store(settings, "touched").write("notes.txt", b"somebody else's")

    monkeypatch.setattr(command, "show", show)
    assert gc("--older", "0s", "--delete") == 0
    said = capsys.readouterr().err
    assert "touched stays: its files have changed" in said
    assert "submitted stays: a job of its name was submitted" in said
    assert "begun stays: other was submitted, which begins from it" in said
    assert {name: S3Store(settings, name).list() for name in before} == before
    assert "step" in there(settings, "touched")


def test_a_run_of_another_mlflow_is_left_alone_and_all_code(
    settings: PlatformSettings, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    keep(settings, "theirs", tmp_path)
    (sent,) = send_code(settings, monkeypatch, "a")
    monkeypatch.setenv("EVEREST_MLFLOW_URI", f"sqlite:///{tmp_path}/other.db")
    assert gc("--older", "0s", "--delete") == 0
    assert "its record is not in this MLflow" in capsys.readouterr().out
    assert "step" in there(settings, "theirs")
    assert S3Store(settings, "_code").list() == [sent], "theirs may have been submitted with it"


def send_code(settings: PlatformSettings, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> list[str]:
    """Archives that count as sent long ago."""
    monkeypatch.setattr(archives, "QUIET", timedelta(0))
    keys = [f"{kind * 64}.tar.gz" for kind in kinds]
    for key in keys:
        S3Store(settings, "_code").write(key, b"packed")
    return keys


def test_code_that_no_run_and_no_job_refers_to_goes(
    settings: PlatformSettings, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    keep(settings, "kept", tmp_path, tags={"everest.code": "a" * 64})
    jobs.there, jobs.code = {"pending": ""}, {"pending": "b" * 64}
    sent = send_code(settings, monkeypatch, "a", "b", "c", "d")
    S3Store(settings, "_code").write("notes.txt", b"somebody's")
    assert gc("--older", "90d") == 0
    assert "2 archives of code that no run and no job refers to, 12 B" in capsys.readouterr().out
    assert S3Store(settings, "_code").list() == [*sent, "notes.txt"]

    unused_code = Shelf.unused_code

    def asked(shelf: Shelf) -> Any:
        found = unused_code(shelf)
        jobs.there, jobs.code = {"pending": "", "new": ""}, {"pending": "b" * 64, "new": "d" * 64}
        return found

    monkeypatch.setattr(Shelf, "unused_code", asked)
    assert gc("--older", "90d", "--delete") == 0
    assert "1 archives of code: removed" in capsys.readouterr().err
    assert S3Store(settings, "_code").list() == [sent[0], sent[1], sent[3], "notes.txt"], "d was submitted meanwhile"


def test_code_stays_for_weeks_after_it_was_sent() -> None:
    now = datetime(2026, 11, 28, tzinfo=UTC)
    sent = [Entry(f"{kind * 64}.tar.gz", 1, now - timedelta(days=days), "") for kind, days in (("a", 29), ("b", 31))]
    assert [entry.key[0] for entry in archives.unused(sent, (), now)] == ["b"]
    assert not archives.unused(sent, {"b" * 64}, now)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "which runs may go? --older, --failed, --last or --best"),
        (["--older", "3 weeks"], "--older '3 weeks': must be an age as 12h or 90d"),
        (["--last", "-1"], "--last -1: must be 0 or more"),
    ],
)
def test_rules_that_are_none_are_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gc(*words) == 2
    assert capsys.readouterr().err == f"everest-jobs: {line}\n"


def test_mlflow_that_does_not_answer_ends_it_before_anything_goes(
    settings: PlatformSettings, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(settings, "old", tmp_path)
    monkeypatch.setenv("EVEREST_MLFLOW_URI", "http://127.0.0.1:9")
    assert gc("--older", "0s", "--delete") == 1
    assert "step" in there(settings, "old")


def test_wherever_the_removal_of_checkpoints_ends_the_newest_that_is_left_is_whole(tmp_path: Path) -> None:
    """Every beginning of the order, on a folder."""
    save(FolderStore(tmp_path / "all"), tmp_path / "scratch", steps=3)
    order = removal_order(FolderStore(tmp_path / "all").list())
    assert sorted(order) == sorted(FolderStore(tmp_path / "all").list())
    store = FolderStore(tmp_path / "all")
    for key in ["", *order]:
        if key:
            store.delete(key)
        saved = SavedCheckpoints(store, tmp_path / "scratch")
        newest = saved.newest()
        manifests = [each for each in store.list() if each.endswith("manifest.json")]
        assert (newest.step if newest else None) == (3 if manifests else None)
        assert not saved.passed_over
        for pointer in ("latest.json", "best.json"):
            if said := store.read(pointer):
                assert newest
                assert json.loads(said)["checkpoint"] == newest.name
