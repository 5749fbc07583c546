"""A real MLflow on SQLite: one run through interruptions, a registered model that answers."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import everest as package
from everest.cli import main
from everest.data.decode import decode
from everest.errors import EverestError
from everest.protocols import NullTracker
from everest.training import loop
from everest.training.interrupt import StopRequest
from everest.training.local import FolderStore, Trackers
from everest.training.run import Result, run
from orchestration.cli import main as jobs
from orchestration.settings import sqlite_uri
from tests.conftest import tiny
from tests.integration.command import everest
from tests.services import HANGS_S, answers, experiments, free_port, until
from tests.training.test_run import ALONE, KillAt, Killed

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself when imported


class Awaiting(NullTracker):
    """Lets a step wait for a file: training is over in less time than a first picture takes."""

    def __init__(self, file: Path, step: int) -> None:
        self.file, self.step = file, step

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step == self.step:
            until(self.file.exists, "the picture")


@pytest.fixture(scope="module")
def tracked(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Result, Any]]:
    """A classifier whose run was killed once, with its work folder and an MLflow client."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVEREST_WORK", str(work))
        import mlflow

        from orchestration.tracking import system
        from orchestration.tracking.registry import RegisteringTracker

        patch.setattr(system, "EVERY_S", 0.2)
        patch.setattr(loop, "PICTURES_APART_S", 0)
        config = tiny("finetune", synthetic, recipe="a recipe", **{"keep.picture_epochs": 1})
        folder = work / config.name

        def go(*extra: Any) -> Result:
            tracker = Trackers(RegisteringTracker(config, folder), *extra)
            return run(config, folder, FolderStore(folder / "checkpoints"), tracker, ALONE, StopRequest())

        with pytest.raises(Killed):
            go(Awaiting(folder / "figures/step-00000004.png", 6), KillAt(8, "train/loss"))
        yield work, go(), mlflow.MlflowClient()


def only_run(client: Any) -> Any:
    (found,) = client.search_runs(experiments(client))
    return found


def test_a_resumed_run_is_one_mlflow_run_without_gaps_or_doubles(tracked: Any) -> None:
    _, _, client = tracked
    found = only_run(client)
    assert found.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(found.info.run_id, "train/loss")]
    assert steps == list(range(1, 13))
    validated = [metric.step for metric in client.get_metric_history(found.info.run_id, "val/top1")]
    assert validated == [4, 8, 12]


def test_settings_data_commit_pictures_and_system_metrics_are_there(tracked: Any, synthetic: Path) -> None:
    _, result, client = tracked
    found = only_run(client)
    assert found.data.params["mask.keep_ratio"] == "0.3"
    assert found.data.params["data.train"] == str(synthetic / "train.csv")
    assert len(found.data.tags["mlflow.source.git.commit"].removesuffix("-dirty")) == 40
    assert found.data.metrics["test/top1"] == result.metrics["test/top1"]
    assert any(name.startswith("system/") for name in found.data.metrics)
    contexts = {entry.tags[0].value: entry.dataset.name for entry in found.inputs.dataset_inputs}
    assert set(contexts) >= {"training", "evaluation"} or len(found.inputs.dataset_inputs) == 2
    names = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"experiment.yaml", "figures"} <= names


def test_a_person_sees_what_it_is_what_it_cost_and_where_it_is(tracked: Any, synthetic: Path) -> None:
    _, result, client = tracked
    found = only_run(client)
    assert client.get_experiment(found.info.experiment_id).name == f"everest/{synthetic.name}/finetune"
    assert found.info.run_name == "tiny-finetune · keeps 0.6 · 3 epochs · from scratch"
    note = found.data.tags["mlflow.note.content"]
    for said in ("| recipe | `a recipe` |", "GFLOPs a clip", f"test/top1 **{result.metrics['test/top1']:.4g}**"):
        assert said in note
    assert found.data.tags["mlflow.source.git.commit"] in note
    assert {name.partition("/")[0] for name in found.data.metrics} == {
        "train", "val", "test", "perf", "cost", "data", "system",
    }  # fmt: skip
    version = client.get_model_version_by_alias("tiny-finetune", "candidate")
    assert f"| test/top1 | **{result.metrics['test/top1']:.4g}** |" in version.description
    assert version.tags["metric.test/top1"] == f"{result.metrics['test/top1']:.6g}"


def test_every_epoch_has_its_picture_though_the_run_was_killed_between(tracked: Any) -> None:
    _, _, client = tracked
    names = {Path(item.path).name for item in client.list_artifacts(only_run(client).info.run_id, "figures")}
    assert {f"step-0000000{step}.png" for step in (0, 4, 8)} | {"confusion.png", "confusion.csv"} <= names


def test_the_classifier_is_registered_once_without_a_pickle(tracked: Any) -> None:
    work, result, client = tracked
    assert result.address == "models:/tiny-finetune@candidate"
    version = client.get_model_version_by_alias("tiny-finetune", "candidate")
    assert str(version.version) == "1"
    assert version.run_id == only_run(client).info.run_id
    stored = [path.name for path in (work / "mlflow-artifacts").rglob("*") if path.is_file()]
    assert "model.safetensors" in stored
    assert not [name for name in stored if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]


def test_a_list_knows_a_job_by_its_run_in_two_questions_and_the_run_when_the_job_is_gone(
    tracked: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, result, client = tracked
    asked: list[str] = []
    search = type(client).search_runs
    monkeypatch.setattr(type(client), "search_runs", lambda *given, **more: asked.append("") or search(*given, **more))

    def listed(*flags: str) -> list[dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            jobs(["list", "--launcher", "local", "--json", *flags])
        assert not ended.value.code
        return list(json.loads(capsys.readouterr().out))

    assert listed() == []
    (past,) = listed("--all")
    assert (past["job"], past["state"], past["gone"]) == ("tiny-finetune", "succeeded", True)
    assert (past["step"], past["steps"], past["loss"]) == (12, 12, result.metrics["train/loss"])
    assert listed("--all", "--since", "2999-01-01") == listed("--all", "--user", "nobody") == []
    assert listed("--all", "--user", past["user"]) == [past]

    asked.clear()
    for name in ("tiny-finetune", "second", "third"):
        (work / name).mkdir(exist_ok=True)
        (work / name / "job.json").write_text(json.dumps({"created": 1.0, "user": "ann"}))
    found = {row["job"]: (row["gone"], row["step"]) for row in listed("--user", "ann")}
    assert found == {"tiny-finetune": (False, 12), "second": (False, None), "third": (False, None)}
    assert len(asked) == 2
    (work / "tiny-finetune/job.json").unlink()


def test_paths_lists_and_arrays_are_classified_alike(tracked: Any, synthetic: Path) -> None:
    import mlflow

    _, result, _ = tracked
    model = mlflow.pyfunc.load_model(result.address)
    video = synthetic / "videos/00017.mp4"
    (by_path,) = model.predict(str(video))
    by_list = model.predict([str(video), str(video)])
    (by_array,) = model.predict(decode(video, 32, np.arange).numpy())
    assert by_list == [by_path, by_path]
    assert by_array == pytest.approx(by_path, abs=1e-5)
    assert sum(by_path.values()) == pytest.approx(1, abs=1e-4)


def test_tables_and_arrays_of_paths_are_classified_as_a_server_gives_them(tracked: Any, synthetic: Path) -> None:
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(tracked[1].address)
    video = str(synthetic / "videos/00017.mp4")
    expected = model.predict(video)
    for given in (
        pd.DataFrame({"video": [video]}), {"video": [video]}, {"video": np.array([video])},
        np.array([video]), np.array(video), np.array([video], object),
    ):  # fmt: skip
        assert model.predict(given) == expected
    with pytest.raises(EverestError, match="a table of videos has a column 'video'; this one has: path, label"):
        model.predict(pd.DataFrame({"path": [video], "label": [0]}))


def test_the_package_alone_goes_along_and_what_it_needs_is_on_an_index(tracked: Any) -> None:
    (code,) = (tracked[0] / "mlflow-artifacts").rglob("code")
    ours = Path(package.__file__).parent
    files = {file.relative_to(ours) for file in ours.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {file.relative_to(code / "everest") for file in code.rglob("*") if file.is_file()} == files
    requirements = (code.parent / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in requirements} == {
        "mlflow", "torch", "safetensors", "av", "numpy", "pillow", "pydantic", "pyyaml", "rich",
    }  # fmt: skip
    assert all(re.fullmatch(r"[a-z]+==[\d.]+(rc\d+)?", line) for line in requirements)


def test_decord_is_needed_by_a_model_that_reads_with_it_alone(synthetic: Path) -> None:
    from orchestration.tracking.registry import _requirements

    needed = [_requirements(tiny("finetune", synthetic, **{"data.reader": reader})) for reader in ("decord", "av")]
    assert [any(line.startswith("decord==") for line in lines) for lines in needed] == [True, False]


@pytest.fixture(scope="module")
def elsewhere(tracked: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs Python in an environment that has all that is installed here, but nothing of this project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv")
    here, there = (Path(sysconfig.get_path("purelib", vars={"base": str(at)})) for at in (sys.prefix, folder / "venv"))
    for entry in here.iterdir():
        if "everest" not in entry.name:
            (there / entry.name).symlink_to(entry)
    python = folder / "venv/bin/python"
    python.with_name("uvicorn").write_text(f'#!/bin/sh\nexec "{python}" -m uvicorn "$@"\n')
    python.with_name("uvicorn").chmod(0o755)

    def start(*arguments: object) -> "subprocess.Popen[str]":
        env = {name: value for name, value in os.environ.items() if not name.startswith(("EVEREST_", "PYTHON"))}
        env["MLFLOW_TRACKING_URI"] = sqlite_uri(tracked[0] / "mlflow.db")
        env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
        with (folder / "log.txt").open("w") as log:
            return subprocess.Popen(
                [python, *map(str, arguments)], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True
            )

    assert start("-c", "import everest").wait(HANGS_S) == 1
    assert "No module named 'everest'" in (folder / "log.txt").read_text()
    return start


def test_mlflow_predicts_and_serves_where_everest_is_not_installed(
    tracked: Any, synthetic: Path, elsewhere: Any, tmp_path: Path
) -> None:
    import mlflow

    address, video = tracked[1].address, str(synthetic / "videos/00017.mp4")
    (expected,) = mlflow.pyfunc.load_model(address).predict(video)
    table, port = tmp_path / "videos.csv", free_port()
    table.write_text(f"video\n{video}\n")
    model = ("-m", address, "--env-manager", "local")
    predicted = elsewhere("-m", "mlflow", "models", "predict", *model, "-i", table, "-t", "csv")
    server = elsewhere("-m", "mlflow", "models", "serve", *model, "-p", port)
    said, _ = predicted.communicate(timeout=HANGS_S)
    assert predicted.returncode == 0
    assert json.loads(said.splitlines()[-1])["predictions"] == [pytest.approx(expected, abs=1e-5)]

    until(lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}"), "the server")
    for asked in ({"inputs": [video]}, {"dataframe_split": {"columns": ["video"], "data": [[video]]}}):
        told = requests.post(f"http://127.0.0.1:{port}/invocations", json=asked, timeout=HANGS_S)
        assert told.status_code == 200, told.text
        assert told.json()["predictions"] == [pytest.approx(expected, abs=1e-5)]


def test_predict_on_the_command_line_uses_the_registered_model(tracked: Any, synthetic: Path) -> None:
    work, result, _ = tracked
    done = everest("predict", result.address, synthetic / "videos/00017.mp4", "--top", 1, work=work)
    assert done.returncode == 0, done.stderr
    assert "%" in done.stdout


def test_predict_runs_no_code_of_the_registry_and_checks_the_weights(tracked: Any, synthetic: Path) -> None:
    from orchestration.tracking.registry import load_predictor

    work, result, _ = tracked
    stored = work / "mlflow-artifacts"
    (code,) = stored.rglob("pyfunc.py")
    ours = code.read_text()
    code.write_text("raise SystemExit('somebody else's code')")
    try:
        found = load_predictor(result.address)(synthetic / "videos/00017.mp4")
        assert sum(found.values()) == pytest.approx(1, abs=1e-4)
        (weights,) = stored.rglob("model.safetensors")
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(EverestError, match="its weights are not those that were registered"):
            load_predictor(result.address)
        weights.write_bytes(whole)
    finally:
        code.write_text(ours)


def test_an_alias_that_mlflow_refuses_ends_a_run_before_it_begins(synthetic: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny("finetune", synthetic, name="refused").to_yaml())
    more = {"EVEREST_TRACKER": "mlflow", "EVEREST_MODEL_ALIAS": "latest"}
    done = everest("finetune", "--recipe", recipe, work=tmp_path, **more)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("everest: EVEREST_MODEL_ALIAS (--model-alias) = 'latest': must be")
    assert not list(tmp_path.rglob("mlflow*"))


def test_an_unknown_model_is_one_line(tracked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "models:/nobody@candidate", "a.mp4"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("everest: models:/nobody@candidate: ")
