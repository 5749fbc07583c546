"""What a space file may say, and what it is told when it says something else."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from everest.errors import UsageError
from sweeps.space import Parameter, Space, content_hash, space_names

ROOT = Path(__file__).parents[2]
FINETUNE: dict[str, Any] = {"recipe": "demo-finetune", "search": {"classify.keep_ratio": {"float": [0.2, 1.0]}}}
GOOD: dict[str, Any] = {"name": "good", "finetune": FINETUNE, "objectives": {"val/top1": "max"}}


@pytest.mark.parametrize("name", space_names())
def test_every_shipped_space_can_be_searched_on_one_gpu_and_on_eight(name: str) -> None:
    space = Space.load(name)
    middle = {key: parameter.ends[0] for key, parameter in space.search.items()}
    experiments = space.experiments(middle)
    assert len(experiments) == len(list(space.stages()))
    assert all(each.share_of(1) == 8 * each.share_of(8) for each in experiments)
    assert len(space.best(middle)) == len(list(space.stages()))


def test_the_space_shown_in_the_docs_can_be_searched() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/sweeps.md").read_text(), re.S)
    space = Space.parse({"name": "shown", **yaml.safe_load(block)})
    assert {"mask.keep_ratio", "optim.batch_size", "classify.distance"} < set(space.search)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"finetune": {**FINETUNE, "search": {"classify.kep_ratio": {"float": [0.2, 1.0]}}}},
         "unknown setting 'classify.kep_ratio'; did you mean 'classify.keep_ratio'?"),
        ({"finetune": {**FINETUNE, "search": {"classify.keep_ratio": {"float": [0.2, 1.5]}}}},
         "classify.keep_ratio = 1.5: input should be less than or equal to 1"),
        ({"finetune": {**FINETUNE, "search": {"optim.batch_size": {"float": [2, 8.5]}}}},
         "optim.batch_size = 8.5: input should be a valid integer"),
        ({"finetune": {**FINETUNE, "search": {"classify.keep_ratio": {"float": [0.9, 0.2]}}}},
         "`low <= high` must hold"),
        ({"finetune": {**FINETUNE, "search": {"classify.keep_ratio": {"float": [0.1, 0.5], "step": 0.3}}}},
         "[0.1, 0.5] is not a whole number of steps of 0.3"),
        ({"finetune": {**FINETUNE, "search": {"optim.lr": {"float": [0.1, 0.5], "int": [1, 2]}}}},
         "needs one of float"),
        ({"finetune": {**FINETUNE, "recipe": "demo-pretrain"}},
         "finetune.recipe = 'demo-pretrain' is a recipe for pretrain"),
        ({"finetune": {**FINETUNE, "recipe": "demo-nothing"}}, "no recipe 'demo-nothing'"),
        ({"finetune": {**FINETUNE, "short": {"optim.steps": -4}}}, "optim.steps = -4: input should be greater than 0"),
        ({"finetune": {**FINETUNE, "fixed": {"classify.keep_ratio": 0.5}}}, "classify.keep_ratio is searched and set"),
        ({"finetune": None}, "needs a stage: pretrain, finetune or both"),
        ({"finetune": {**FINETUNE, "search": {}}}, "nothing is searched"),
        ({"objectives": {"val/top1": "highest"}}, "objectives.val/top1 = 'highest': Input should be 'max' or 'min'"),
        ({"constraints": ["optim.lr < 3"]}, "optim.lr is neither searched nor a number"),
        ({"constraints": ["classify.keep_ratio = 3"]}, "is not like mask.visible_ratio < mask.keep_ratio"),
        ({"objectives": {"a": "max", "b": "min"}, "prune": "a"}, "prune needs a single objective"),
        ({"sampler": "best"}, "sampler = 'best': Input should be 'tpe'"),
        ({"wanted": 3}, "wanted = 3: Extra inputs are not permitted"),
        ({"name": "My Sweep"}, "name = 'My Sweep': String should match"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_said_in_one_line(change: dict[str, Any], said: str) -> None:
    tree = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(UsageError) as error:
        Space.parse(tree)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_is_named(tmp_path: Any) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    for source, said in (
        ("nowhere", "no space 'nowhere'; there are finetune, frames"),
        (tmp_path / "no.yaml", "no.yaml cannot be read: No such file"),
        (broken, "broken.yaml is not YAML"),
    ):
        with pytest.raises(UsageError, match=said):
            Space.load(source)


def test_a_trial_is_its_recipe_with_what_is_fixed_short_and_drawn_and_the_best_recipe_is_not_short() -> None:
    stage = {**FINETUNE, "fixed": {"seed": 7}, "short": {"optim.steps": 3}}
    space = Space.parse({**GOOD, "finetune": stage})
    values = {"classify.keep_ratio": 0.1 + 0.2}
    (trial,), (best,) = space.experiments(values), space.best(values)
    assert (trial.seed, trial.optim.steps, trial.classify.keep_ratio) == (7, 3, 0.3)
    assert (best.seed, best.optim.steps, best.classify.keep_ratio) == (7, None, 0.3)


def test_settings_of_the_command_line_hold_in_every_stage_and_are_kept_in_the_best_recipe() -> None:
    space = Space.load("masking").changed({}, {"data.train": "mine.csv", "optim.steps": 9}, name="mine", seed=0)
    values = {"mask.keep_ratio": 0.3, "mask.visible_ratio": 0.1}
    assert space.name == "mine"
    for experiment in (*space.experiments(values), *space.best(values)):
        assert (str(experiment.data.train), experiment.optim.steps) == ("mine.csv", 9)


def test_constraints_are_above_zero_exactly_where_they_do_not_hold() -> None:
    space = Space.load("masking")
    for keep, visible, holds in ((0.3, 0.1, True), (0.3, 0.3, False), (0.1, 0.3, False)):
        (violation,) = space.violations({"mask.keep_ratio": keep, "mask.visible_ratio": visible}).values()
        assert (violation <= 0) == holds


@pytest.mark.parametrize(
    ("parameter", "points"),
    [
        ({"float": [0.1, 0.5], "step": 0.2}, (0.1, 0.3, 0.5)),
        ({"int": [2, 6], "step": 2}, (2, 4, 6)),
        ({"categorical": [True, None, "a"]}, (True, None, "a")),
    ],
)
def test_a_grid_has_every_value_once(parameter: dict[str, Any], points: tuple[Any, ...]) -> None:
    assert Parameter.model_validate(parameter).grid() == points


def test_pre_trainings_are_the_same_where_all_settings_but_the_name_are() -> None:
    (one, _), (other, _) = (
        Space.load("pareto").experiments({"mask.keep_ratio": keep, "classify.keep_ratio": classify})
        for keep, classify in ((0.3, 0.5), (0.3, 0.7))
    )
    assert content_hash(one) == content_hash(other.override({"name": "another"}))
    assert content_hash(one) != content_hash(other.override({"seed": 1}))
