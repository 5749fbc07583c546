"""Comparisons: equal budgets, every method with every seed, and intervals that another library finds too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.stats
import yaml
from optuna.trial import TrialState

from everest.errors import UsageError
from sweeps.comparison import Comparison, comparison_names
from sweeps.comparison_report import table, write_comparison
from sweeps.findings import curves_of, rows_of
from sweeps.intervals import mean_interval, paired_interval
from sweeps.space import VARIANT
from sweeps.study import JOBS, Study

FLOPS = {("pretrain", "rero"): 1.0, ("pretrain", "tube"): 2.5, ("finetune", "rero"): 4.0, ("finetune", "tube"): 4.0}
TREE: dict[str, Any] = {
    "name": "two",
    "methods": ["rero", "tube"],
    "seeds": 3,
    "measures": ["test/top1", "val/knn_top1"],
    "curve": "val/top1",
    "pretrain": {
        "recipe": "demo-pretrain",
        "fixed": {"optim.steps": 100},
        "methods": {"tube": {"mask.method": "tube"}},
    },
    "finetune": {"recipe": "demo-finetune", "fixed": {"optim.steps": 40}},
}


def comparison(**changes: Any) -> Comparison:
    return Comparison.parse(TREE | changes)


def test_an_interval_is_the_bootstraps() -> None:
    values = list(np.random.default_rng(3).normal(0.6, 0.1, 20))
    found = mean_interval(values)
    truth = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high), abs=0.002)
    assert mean_interval(values) == found


def test_a_difference_is_that_of_pairs() -> None:
    base = [0.1, 0.5, 0.9, 0.3]
    found = paired_interval([value + 0.02 for value in base], base)
    assert found == pytest.approx((0.02, 0.02, 0.02))


def test_methods_train_for_the_same_number_of_operations_or_of_steps() -> None:
    by_flops, by_steps = comparison(), comparison(equal="steps")
    assert [by_flops.steps("pretrain", method, FLOPS, 1) for method in ("rero", "tube")] == [100, 40]
    assert [by_flops.steps("finetune", method, FLOPS, 1) for method in ("rero", "tube")] == [40, 40]
    assert [by_steps.steps("pretrain", method, FLOPS, 1) for method in ("rero", "tube")] == [100, 100]
    whole = comparison(pretrain={"recipe": "demo-pretrain", "methods": TREE["pretrain"]["methods"]})
    assert whole.steps("pretrain", "rero", FLOPS, 640) == 15 * (640 // 32)  # epochs, of 32 videos with two clips each


def test_methods_train_for_the_same_time_by_the_pace_that_short_runs_had() -> None:
    timed = comparison(equal="seconds")
    seconds = {key: flops / (2 if key == ("pretrain", "tube") else 1) for key, flops in FLOPS.items()}
    assert [timed.steps("pretrain", method, seconds, 1) for method in ("rero", "tube")] == [100, 80]
    for kind in ("pretrain", "finetune"):
        (of_stage,) = timed.pace_space(kind).experiments({VARIANT: "tube", "seed": 1})
        assert (of_stage.stage, of_stage.init, of_stage.optim.warmup_epochs) == (kind, None, 0)
        assert of_stage.optim.steps == timed.pace_space(kind).experiments({VARIANT: "rero", "seed": 0})[0].optim.steps


def test_every_method_is_run_with_every_seed_in_both_stages() -> None:
    study = Study.begin("two", comparison().space(FLOPS, 1), optuna.storages.InMemoryStorage())
    drawn = []
    while study.any_left:
        trial = study.draw()
        pretrain, finetune = study.space.experiments(trial.params)
        drawn.append((trial.params[VARIANT], pretrain.seed))
        assert finetune.seed == pretrain.seed
        assert pretrain.mask.method == trial.params[VARIANT]
        assert pretrain.mask.keep_ratio == {"rero": 0.3, "tube": 1}[trial.params[VARIANT]]
        assert pretrain.optim.steps == {"rero": 100, "tube": 40}[trial.params[VARIANT]]
        study.tell(trial, TrialState.COMPLETE, [0.5])
    assert sorted(drawn) == [(method, seed) for method in ("rero", "tube") for seed in range(3)]


def measured(values: dict[str, list[float]]) -> Study:
    """A study whose trials have ended with these, seed by seed; nan has failed."""
    study = Study.begin("two", comparison().space(FLOPS, 1), optuna.storages.InMemoryStorage())
    while study.any_left:
        trial = study.draw()
        method, seed = trial.params[VARIANT], trial.params["seed"]
        trial.set_user_attr(JOBS, [f"{method}-{seed}-pre", f"{method}-{seed}"])
        if np.isnan(values[method][seed]):
            study.tell(trial, TrialState.FAIL)
        else:
            study.tell(trial, TrialState.COMPLETE, [values[method][seed]])
    return study


class Noted:
    """What runs have noted, by their names."""

    def latest(self, name: str) -> dict[str, tuple[int, float]] | None:
        method, seed, *pre = name.split("-")
        if not pre:
            return {"test/top1": (40, 0.0)}
        return {"val/knn_top1": (100, 0.1 * int(seed))} if method == "rero" else None

    def history(self, name: str, metric: str) -> list[tuple[int, float]]:
        assert metric == "val/top1"
        return [] if name.endswith("-pre") else [(20, 0.2 * int(name[-1])), (40, 0.3 * int(name[-1]))]


def test_the_report_has_means_and_differences_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    study = measured({"rero": [0.5, 0.6, 0.7], "tube": [0.4, float("nan"), 0.8]})
    found = rows_of(comparison(), study, Noted())
    first, second = found["test/top1"]
    assert (first.method, first.found.mean, first.difference) == ("rero", pytest.approx(0.6), None)
    assert second.found.mean == pytest.approx(0.6)
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(((0.4 - 0.5) + (0.8 - 0.7)) / 2)
    lines = table(comparison(), study, "test/top1", [first, second])
    assert lines[2][:4] == ["tube", "40 + 40", "2", "0.6000"]

    curves = curves_of(comparison(), study, Noted(), FLOPS)
    page, picture, numbers = write_comparison(comparison(), study, found, curves, {"rero": b"PNG"}, tmp_path)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    text = page.read_text()
    assert "0.6000" in text
    assert text.count("data:image/png;base64,") == 2
    assert "http" not in text  # nothing from elsewhere
    assert json.loads(numbers.read_text())["found"]["test/top1"]["tube"]["values"] == {"0": 0.4, "2": 0.8}


def test_another_measure_is_that_of_any_stage_and_of_no_method_that_lacks_it() -> None:
    study = measured({"rero": [0.5, 0.6, 0.7], "tube": [0.4, 0.5, 0.8]})
    (only,) = rows_of(comparison(), study, Noted())["val/knn_top1"]
    assert (only.method, dict(only.values)) == ("rero", {0: 0.0, 1: 0.1, 2: pytest.approx(0.2)})


def test_a_curve_counts_the_operations_of_all_stages_up_to_there() -> None:
    study = measured({"rero": [0.5, 0.6, 0.7], "tube": [0.4, float("nan"), 0.8]})
    rero, tube = curves_of(comparison(), study, Noted(), FLOPS).values()
    before, step = 100 * 64 * 1.0, 16 * 4.0  # clips of a step, and what one costs
    assert rero.flops == pytest.approx([before + 20 * step, before + 40 * step])
    assert rero.values == pytest.approx([0.2, 0.3])  # of seeds 0, 1 and 2
    assert tube.flops == pytest.approx([40 * 64 * 2.5 + 20 * step, 40 * 64 * 2.5 + 40 * step])
    assert tube.values == pytest.approx([0.2, 0.3])  # of seeds 0 and 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["rero"]}, "comparison two: methods: "),
        ({"methods": ["rero", "least"]}, "pretrain.methods has 'tube', which is not among methods"),
        ({"pretrain": None, "finetune": None}, "needs a stage"),
        ({"seeds": 1}, "comparison two: seeds: "),
        ({"pretrain": {"recipe": "demo-finetune"}}, "is a recipe for finetune"),
        ({"pretrain": {"recipe": "demo-pretrain", "fixed": {"mask.methd": "tube"}}}, "unknown setting 'mask.methd'"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        comparison(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", comparison_names())
def test_every_shipped_comparison_can_be_run(name: str) -> None:
    found = Comparison.load(name)
    flops = {(kind, method): 1.0 for kind in found.stages() for method in found.methods}
    assert {kind: found.pace_space(kind) for kind in found.stages()}
    Study.begin(name, found.space(flops, 640), optuna.storages.InMemoryStorage()).draw()  # type: ignore[arg-type]


def test_a_file_is_named_after_its_stem_and_another_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in TREE.items() if key != "name"}))
    assert Comparison.load(str(file)).name == "mine"
    with pytest.raises(UsageError, match="no comparison 'none'; there are frames, masks"):
        Comparison.load("none")
