"""Sweeps on this machine: killed, restarted, and looked at."""

import json
import random
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from optuna.trial import TrialState

from everest.config import Experiment
from everest.data.synthetic import synthesize
from orchestration.local import LocalLauncher
from orchestration.settings import PlatformSettings
from sweeps.space import Space
from sweeps.storage import open_storage
from sweeps.study import JOBS, PRETRAINED, Study
from tests.conftest import pack
from tests.integration.sweep import Sweeps
from tests.services import HANGS_S, experiments

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of itself

TRIALS = 6
TINY = {
    "model.image_size": 32, "model.patch_size": 8, "model.num_frames": 4, "model.embed_dim": 48, "model.depth": 2,
    "model.num_heads": 3, "data.rate": 1, "data.workers": 0, "evaluate.every_epochs": 1000, "evaluate.segments": 1,
    "keep.checkpoint_steps": 40, "keep.picture_epochs": 0,
}  # fmt: skip


def space_file(folder: Path, videos: Path, **changes: Any) -> Path:
    fixed = {**TINY, "data.train": str(videos / "train.csv"), "data.val": str(videos / "val.csv")}
    tree = {
        "finetune": {
            "recipe": "demo-finetune",
            "fixed": {**fixed, "init": None},
            "short": {"optim.steps": 480, "optim.batch_size": 8, "optim.micro_batch": 8, "keep.log_steps": 16},
            "search": {
                "classify.keep_ratio": {"float": [0.2, 1.0], "step": 0.1},
                "optim.lr": {"float": [1e-4, 1e-1], "log": True},
            },
        },
        "objectives": {"train/loss": "min"},
        "prune": "train/loss",
        "prune_after": 2,
        "sampler": "random",
        **changes,
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file


def study(work: Path, name: str = "small") -> Study:
    return Study.open(name, open_storage(PlatformSettings(work=work)))


def kill(process: "subprocess.Popen[str]") -> None:
    """The controller alone: its jobs are processes of their own."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def jobs_going_on(work: Path) -> list[int]:
    return [
        each.pid
        for each in psutil.process_iter(["cmdline"])
        if "orchestration.pod.torchrun" in (each.info["cmdline"] or []) and str(work) in " ".join(each.info["cmdline"])
    ]


def test_a_sweep_killed_at_five_moments_ends_with_every_trial_once(videos: Path, tmp_path: Path) -> None:
    sweeps, file, moments = Sweeps(tmp_path), space_file(tmp_path, videos), random.Random(5)
    arguments = ("launch", file, "--trials", TRIALS, "--parallel", 2, "--keep-best", 2)
    said = tmp_path / "said.txt"
    for _ in range(5):
        controller = sweeps.start(*arguments, log=said)
        with pytest.raises(subprocess.TimeoutExpired):
            controller.wait(moments.uniform(3, 9))
        kill(controller)
    assert sweeps.start(*arguments, log=said).wait(HANGS_S) == 0, said.read_text()

    found = study(tmp_path)
    trials = found.trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}, said.read_text()
    assert found.trials(TrialState.COMPLETE)
    assert found.trials(TrialState.PRUNED), "none was pruned"
    again = Study.begin("small", Space.load(file), optuna.storages.InMemoryStorage())
    assert [trial.params for trial in trials] == [again.draw().params for _ in range(TRIALS)]

    assert not jobs_going_on(tmp_path)
    assert not list(tmp_path.glob("*/job.json"))
    for trial in found.trials(TrialState.COMPLETE):
        result = json.loads((tmp_path / f"small-{trial.number}/result.json").read_text())
        assert trial.value == pytest.approx(result["metrics"]["train/loss"])
        lines = (tmp_path / f"small-{trial.number}/metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines if "train/loss" in line]
        assert steps == list(range(16, 481, 16))
    assert tree(tmp_path) == {f"small-{number}": {f"small-{number}"} for number in range(TRIALS)}
    best = sorted(found.trials(TrialState.COMPLETE), key=lambda trial: trial.value or 0)[:2]
    assert with_checkpoints(tmp_path) == {f"small-{trial.number}" for trial in best}, said.read_text()


def with_checkpoints(work: Path) -> set[str]:
    """Runs; the others' records in MLflow say that theirs were removed."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{work}/mlflow.db")
    runs = client.search_runs(experiments(client), "tags.`everest.run` != ''")
    for run in runs:
        there = list((work / run.data.tags["everest.run"] / "checkpoints").glob("step-*/model.safetensors"))
        assert bool(there) != run.data.tags.get("everest.removed", "").startswith("checkpoints on ")
    return {file.parents[2].name for file in work.glob("*/checkpoints/step-*/model.safetensors")}


def tree(work: Path) -> dict[str, set[str]]:
    """Names of the study's children in MLflow, and of theirs."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{work}/mlflow.db")
    (experiment,) = experiments(client)
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if run.data.tags.get("everest.kind") == "study"]
    assert parent.info.status == "FINISHED"
    assert {"report.html", "history.png", "slices.png", "contour.png"} <= {
        Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "report")
    }

    def children(run: Any) -> list[Any]:
        return [each for each in runs if each.data.tags.get("mlflow.parentRunId") == run.info.run_id]

    for child in children(parent):
        assert child.data.tags["everest.state"] in {"complete", "pruned", "failed"}
        assert child.info.status != "RUNNING"
        assert {"classify.keep_ratio", "optim.lr"} == set(child.data.params)
        assert re.match(r"small-\d+ · keep_ratio \S+ · lr \S+$", child.info.run_name)
    return {
        child.info.run_name.split()[0]: {run.data.tags["everest.run"] for run in children(child)}
        for child in children(parent)
    }


def parents(work: Path) -> dict[str, str]:
    """Of the runs in MLflow, which are all in one experiment, whatever they learn from."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{work}/mlflow.db")
    (experiment,) = experiments(client)
    runs = client.search_runs([experiment])
    names = {
        run.info.run_id: run.data.tags.get("everest.run")
        or f"{run.data.tags['everest.kind']} {run.info.run_name.split()[0]}"
        for run in runs
    }
    found = {names[run.info.run_id]: run.data.tags.get("mlflow.parentRunId") for run in runs}
    return {name: names[parent] for name, parent in found.items() if parent}


def test_trials_share_a_pre_training_and_the_best_becomes_a_recipe_at_full_length(videos: Path, tmp_path: Path) -> None:
    data = {**TINY, "data.train": str(videos / "train.csv"), "data.val": str(videos / "val.csv")}
    short = {"optim.steps": 6, "optim.batch_size": 4, "optim.micro_batch": 4}
    narrow = {"model.decoder_embed_dim": 24, "model.decoder_depth": 1, "model.decoder_num_heads": 2}
    file = space_file(
        tmp_path, videos,
        pretrain={"recipe": "demo-pretrain", "fixed": {**data, **narrow, "data.name": "unlabelled"}, "short": short,
                  "search": {"mask.keep_ratio": {"categorical": [0.5]}}},
        finetune={"recipe": "demo-finetune", "fixed": data, "short": short,
                  "search": {"classify.keep_ratio": {"categorical": [0.4, 0.8]}}},
        objectives={"val/top1": "max", "cost/gflops_per_clip": "min"}, prune=None, sampler="grid",
    )  # fmt: skip
    sweeps = Sweeps(tmp_path)
    done = sweeps.run("launch", file, "--parallel", 2)
    assert done.returncode == 0, done.stderr
    trials = study(tmp_path).trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert len({trial.user_attrs[JOBS][0] for trial in trials}) == 1
    assert sum(PRETRAINED in trial.user_attrs for trial in trials) == 1
    cost = {trial.params["classify.keep_ratio"]: trial.values[1] for trial in trials}
    assert cost[0.4] < cost[0.8]
    assert parents(tmp_path) == {
        "trial small-0": "study small", "trial small-1": "study small", trials[0].user_attrs[JOBS][0]: "study small",
        **{trial.user_attrs[JOBS][1]: f"trial small-{trial.number}" for trial in trials},
    }  # fmt: skip

    which = sweeps.run("best", "small", "--out", "recipes/mine.yaml")
    assert which.returncode == 2
    assert "several objectives; choose one of its best:" in which.stderr
    assert re.search(r"--trial \d +val/top1 0\.\d+, cost/gflops_per_clip", which.stderr)
    written = sweeps.run("best", "small", "--out", "recipes/mine.yaml", "--trial", 0)
    assert written.stdout.splitlines() == [
        "make submit RECIPE=recipes/mine-pretrain.yaml", "make submit RECIPE=recipes/mine.yaml",
    ]  # fmt: skip
    before, last = (Experiment.load(tmp_path / f"recipes/mine{part}.yaml") for part in ("-pretrain", ""))
    assert (before.name, last.name, str(last.init)) == ("mine-pretrain", "mine", "work/mine-pretrain")
    assert (before.optim.steps, last.optim.steps) == (None, None)
    assert last.classify.keep_ratio == trials[0].params["classify.keep_ratio"]

    status = sweeps.run("status", "small")
    assert "small: 2 complete, 0 pruned, 0 failed, 0 running, 0 waiting" in status.stdout
    report = sweeps.run("report", "small", "--out", tmp_path / "report")
    assert report.stdout == f"{tmp_path}/report/report.html\n", report.stderr
    drawn = {picture.name for picture in (tmp_path / "report").glob("*.png")}
    assert {"pareto-front.png", "history-of-val-top1.png", "slices-of-cost-gflops_per_clip.png"} <= drawn
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("plotly-graph-div") > 3
    assert "https://cdn" not in page.split("<script")[1][:200]


@pytest.mark.long
def test_a_search_over_the_masking_ratios_finds_a_clearly_better_one(tmp_path: Path) -> None:
    """On the synthetic set, in small: a good pre-training is learnt from, a bad one leaves chance (one in eight)."""
    synthesize(tmp_path / "data", 640, 160, size=32, frames=16, seed=0, progress=lambda done, of: None)
    train, val = (pack(tmp_path / f"data/{part}.csv", tmp_path / f"packed/{part}") for part in ("train", "val"))
    small = {
        "model.image_size": 32, "model.patch_size": 4, "model.embed_dim": 96, "model.depth": 4,
        "data.train": str(train), "data.val": str(val),
    }  # fmt: skip
    file = space_file(
        tmp_path, tmp_path,
        pretrain={"recipe": "demo-pretrain",
                  "fixed": {**small, "model.decoder_embed_dim": 64, "model.decoder_depth": 1, "optim.lr": 0.008},
                  "short": {"optim.steps": 200, "optim.batch_size": 32, "optim.micro_batch": 32},
                  "search": {"mask.keep_ratio": {"categorical": [0.1, 0.9]},
                             "mask.visible_ratio": {"categorical": [0.05, 0.9]}}},
        finetune={"recipe": "demo-finetune", "fixed": {**small, "optim.lr": 0.016},
                  "short": {"optim.steps": 80, "evaluate.segments": 1}},
        constraints=["mask.visible_ratio < mask.keep_ratio"],
        objectives={"val/top1": "max"}, prune=None, sampler="grid",
    )  # fmt: skip
    sweeps = Sweeps(tmp_path)
    done = sweeps.run("launch", file, "--parallel", 2)
    assert done.returncode == 0, done.stderr

    trials = study(tmp_path).trials(TrialState.COMPLETE)
    assert len(trials) == 2
    found = {trial.value: trial.params for trial in trials}
    assert max(found) > 0.3
    assert max(found) > min(found) + 0.15, found
    assert sweeps.run("best", "small", "--out", "recipes/mine.yaml").returncode == 0
    best = Experiment.load(tmp_path / "recipes/mine-pretrain.yaml")
    assert {"mask.keep_ratio": best.mask.keep_ratio, "mask.visible_ratio": best.mask.visible_ratio} == found[max(found)]


def test_trials_that_fail_alike_end_the_sweep_with_what_they_said(videos: Path, tmp_path: Path) -> None:
    sweeps = Sweeps(tmp_path)
    file = space_file(tmp_path, videos)
    done = sweeps.run("launch", file, "--trials", 9, "--parallel", 2, "--same-fault", 2, "--data.train", "/nowhere.csv")
    assert done.returncode == 1
    assert "2 jobs in a row failed alike, small is stopped: /nowhere.csv does not exist" in done.stderr
    trials = study(tmp_path).trials(TrialState.FAIL)
    assert len(trials) == 2
    assert "/nowhere.csv does not exist" in trials[0].user_attrs["reason"]
    assert any("/nowhere.csv" in line for line in trials[0].user_attrs["last_lines"])
    assert not list(tmp_path.glob("*/job.json"))


@pytest.mark.parametrize("jobs", ["leave", "cancel"])
def test_ctrl_c_leaves_jobs_or_cancels_them_and_resume_goes_on(videos: Path, tmp_path: Path, jobs: str) -> None:
    sweeps, said = Sweeps(tmp_path), tmp_path / "said.txt"
    file = space_file(tmp_path, videos, prune=None)
    controller = sweeps.start("launch", file, "--trials", 1, "--on-interrupt", jobs, log=said)
    first = tmp_path / "small-0/metrics.jsonl"
    while not (first.exists() and first.read_text().count("\n") > 3):
        with pytest.raises(subprocess.TimeoutExpired):
            controller.wait(0.2)
    controller.send_signal(signal.SIGINT)
    assert controller.wait(HANGS_S) == 130, said.read_text()
    assert "small is interrupted; everest-sweep resume small goes on" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert len(jobs_going_on(tmp_path)) == (jobs == "leave")
    (trial,) = study(tmp_path).trials()
    assert trial.state == (TrialState.RUNNING if jobs == "leave" else TrialState.WAITING)

    if jobs == "leave":
        LocalLauncher(PlatformSettings(work=tmp_path)).cancel("small-0")
        return
    resumed = sweeps.run("resume", "small", "--trials", 1)
    assert resumed.returncode == 0, resumed.stderr
    (trial,) = study(tmp_path).trials()
    assert trial.state == TrialState.COMPLETE
    assert "small-0 continues at step" in (tmp_path / "small-0/log.txt").read_text()


def test_a_sweep_whose_jobs_would_all_be_refused_draws_no_trial(tmp_path: Path) -> None:
    sweeps = Sweeps(tmp_path)
    user = {"name": "me", "user": {"token": "x"}}
    cluster = {"name": "none", "cluster": {"server": "https://127.0.0.1:9"}}
    context = {"name": "none", "context": {"cluster": "none", "user": "me"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "none", "users": [user], "clusters": [cluster]}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump({**config, "contexts": [context]}))
    sweeps.environment["KUBECONFIG"] = str(tmp_path / "kubeconfig")
    done = sweeps.run("launch", "smoke", "--trials", 3, "--launcher", "kubernetes")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "EVEREST_S3_BUCKET (--s3-bucket) is not set" in done.stderr
    assert not study(tmp_path, "smoke").trials()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("launch", "nothing"), "no space 'nothing'"),
        (("launch", "smoke"), "how much? --trials, --hours or --gpu-hours"),
        (("launch", "smoke", "--trials", "0"), "--trials 0: must be more than 0"),
        (("launch", "smoke", "--trials", "1", "--keep-best", "0"), "--keep-best 0: must be 1 or more, or all"),
        (
            ("launch", "smoke", "--trials", "3", "--classify.keep_ratio", "0.5"),
            "classify.keep_ratio is searched and set",
        ),
        (
            ("launch", "smoke", "--trials", "3", "--in-cluster"),
            "in a cluster it must be postgresql://USER@HOST/DATABASE",
        ),
        (("best", "nobody", "--out", "x.yaml"), "no sweep 'nobody'; there are: none"),
    ],
)
def test_what_cannot_be_done_is_a_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = Sweeps(tmp_path).run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("everest-sweep: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
