"""What MLflow shows is told from the experiment alone."""

from pathlib import Path

import pytest

from everest.config import Experiment
from orchestration.settings import PlatformSettings
from orchestration.tracking.presentation import experiment_name, run_name, run_note, run_tags

SETTINGS = PlatformSettings(s3_bucket="videos")


@pytest.mark.parametrize(
    ("train", "name", "dataset"),
    [
        ("/data/ucf101/train.csv", None, "ucf101"),
        ("/data/kinetics", None, "kinetics"),
        ("/data/kinetics.v2", None, "kinetics.v2"),
        ("/data/x/../ucf101/train.txt", None, "ucf101"),
        ("/train.csv", None, "data"),
        ("/data/train.csv", "ssv2", "ssv2"),
        (None, None, "data"),
    ],
)
def test_an_experiment_is_called_after_data_set_and_phase(train: str | None, name: str | None, dataset: str) -> None:
    config = Experiment().override({"data.train": train and Path(train), "data.name": name, "stage": "finetune"})
    assert experiment_name(SETTINGS, config, {}) == f"everest/{dataset}/finetune"
    assert experiment_name(SETTINGS, config, {"everest.experiment": "ucf101/sweeps"}) == "everest/ucf101/sweeps"


def test_a_name_says_share_length_and_origin() -> None:
    pretrain, finetune = Experiment.load("ucf101-pretrain"), Experiment.load("demo-finetune")
    assert run_name(pretrain) == f"ucf101-pretrain · sees 0.1 of 0.3 · {pretrain.optim.epochs} epochs · from scratch"
    short = finetune.override({"optim.steps": 40})
    assert run_name(short) == "demo-finetune · keeps 0.6 · 40 steps · from demo-pretrain"


def test_tags_are_for_filtering_by_data_recipe_and_model() -> None:
    assert run_tags(Experiment.load("demo-pretrain")) == {
        "everest.run": "demo-pretrain", "everest.stage": "pretrain", "everest.dataset": "demo",
        "everest.recipe": "demo-pretrain", "everest.model": "vit-144x6 8x64",
    }  # fmt: skip


def test_a_description_links_checkpoints_and_says_how_to_ask_for_the_job() -> None:
    tags = {"everest.address": "s3://videos/lab/mine/", "everest.job": "mine", "everest.namespace": "lab"}
    config, metrics = Experiment.load("demo-pretrain"), {"train/loss": 0.98, "cost/process_hours": 61.5}
    note = run_note(config, tags, metrics, SETTINGS)
    console = "https://s3.console.aws.amazon.com/s3/buckets/videos?prefix=lab/mine/"
    assert f"| checkpoints | [s3://videos/lab/mine/]({console}) |" in note
    assert "| job | `lab/mine`: `everest-jobs logs mine --namespace lab` |" in note
    assert "| result | train/loss **0.98** |\n| cost | 61.5 hours of a GPU or process |" in note
    own = run_note(config, tags, metrics, SETTINGS.model_copy(update={"s3_endpoint": "https://s3.example.org"}))
    assert "| checkpoints | `s3://videos/lab/mine/` |" in own
    assert "commit" not in note


def test_a_description_says_what_of_the_time_went_to_data() -> None:
    metrics = {
        "perf/clips_per_s": 120.0, "perf/data_wait": 0.4,
        "perf/step_clips_per_s": 200.0, "perf/loader_clips_per_s": 130.0,
    }  # fmt: skip
    config = Experiment.load("demo-pretrain")
    said = "120 clips/s, 40% of the time waiting for data (the steps alone 200 clips/s, the workers 130)"
    assert f"| speed | {said} |" in run_note(config, {}, metrics, SETTINGS)
    assert "| speed | 120 clips/s |" in run_note(config, {}, {"perf/clips_per_s": 120.0}, SETTINGS)
    assert "speed" not in run_note(config, {}, {}, SETTINGS)
