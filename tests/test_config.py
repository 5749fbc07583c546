"""Settings: names, ranges and messages."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from everest.config import Experiment, recipe_names, setting_names, token_count
from everest.errors import UsageError
from orchestration.settings import PlatformSettings


@pytest.mark.parametrize(("ratio", "count"), [(0.3, 470), (0.1, 156), (0.6, 940)])
def test_the_papers_ratios_give_the_papers_counts(ratio: float, count: int) -> None:
    assert token_count(ratio, 1568) == count


@given(st.integers(1, 1000), st.integers(1, 5000))
def test_counts_are_exact_for_every_ratio_of_three_decimals(thousandths: int, tokens: int) -> None:
    ratio = Fraction(thousandths, 1000)
    assert token_count(thousandths / 1000, tokens) == int(ratio * tokens)


def test_floating_point_dust_costs_no_token() -> None:
    assert int(0.29 * 100) == 28
    assert token_count(0.29, 100) == 29
    assert token_count(0.1 + 0.2, 10) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask.keep_ration": 0.3}, "unknown setting 'mask.keep_ration'; did you mean 'mask.keep_ratio'?"),
        ({"keep_ratio": 0.3}, "unknown setting 'keep_ratio'; did you mean"),
        ({"xyz": 0.3}, "unknown setting 'xyz'; --print-config shows all there are"),
        ({"mask.visible_ratio": 0.3}, "visible_ratio 0.3 must be smaller than keep_ratio 0.3"),
        ({"mask.keep_ratio": 1.5}, "mask.keep_ratio = 1.5: input should be less than or equal to 1"),
        ({"mask.visible_ratio": 0.0001}, "leave 0 visible"),
        ({"model.num_frames": 15}, "num_frames 15 must be a multiple of tubelet_size 2"),
        ({"model.image_size": "100"}, "image_size 100 must be a multiple of patch_size 16"),
        ({"optim.lr": "fast"}, "optim.lr = 'fast': input should be a valid number"),
        ({"model.num_heads": 7}, "embed_dim 768 must be a multiple of num_heads 7"),
        ({"optim.batch_size": 9, "data.repeats": 2}, "optim.micro_batch 9 must be a multiple of data.repeats 2"),
        (
            {"optim.batch_size": 9, "optim.micro_batch": 2},
            "optim.batch_size 9 must be a multiple of optim.micro_batch 2",
        ),
        ({"stage": "finetune", "optim.batch_size": 9}, "optim.micro_batch 9 must be even with mixup or cutmix"),
        ({"optim.epochs": 5}, "optim.warmup_epochs 10 must be smaller than optim.epochs 5"),
        ({"augment.rand_augment": "auto"}, "augment.rand_augment = 'auto'"),
        ({"name": "../evil"}, "name = '../evil'"),
        ({"mask.distance": "l3"}, "mask.distance = 'l3'"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Experiment().override(settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_overriding_the_size_changes_what_the_size_decides_and_nothing_said_explicitly() -> None:
    config = Experiment().override({"model.size": "small", "model.depth": 3})
    assert (config.model.embed_dim, config.model.depth) == (384, 3)
    larger = config.override({"model.size": "large"})
    assert (larger.model.embed_dim, larger.model.depth) == (1024, 3)


def test_a_printed_config_read_back_is_the_same_experiment(tmp_path: Path) -> None:
    config = Experiment().override({"mask.keep_ratio": "0.34", "optim.betas": [0.9, 0.99], "init": "a/b"})
    file = tmp_path / "printed.yaml"
    file.write_text(config.to_yaml())
    assert Experiment.load(file).flat() == config.flat()
    assert set(config.flat()) == set(setting_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid_and_named_after_its_file(name: str) -> None:
    config = Experiment.load(name)
    assert config.name == name
    assert name.endswith(config.stage)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {size: tiny}", "model.size = 'tiny'"),
        ("modle: {size: base}", "unknown setting 'modle'"),
        ("[1, 2]", "holds list"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_recipe_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        Experiment.load(file)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no recipe 'demo-pretrian'; did you mean 'demo-pretrain'"):
        Experiment.load("demo-pretrian")
    with pytest.raises(UsageError, match=r"no recipe 'xyz'; there are: clips-pretrain, .*; a file ends in \.yaml"):
        Experiment.load("xyz")


def test_an_experiment_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Experiment()
    for name in ("SEED", "NAME", "EVEREST_SEED", "MASK", "KEEP_RATIO", "EVEREST_MASK__KEEP_RATIO"):
        monkeypatch.setenv(name, "7")
    assert Experiment() == before


def sections() -> list[type[BaseModel]]:
    fields = Experiment.model_fields.values()
    inner = [f.annotation for f in fields if isinstance(f.annotation, type) and issubclass(f.annotation, BaseModel)]
    return [Experiment, *inner, PlatformSettings]


def test_rules_are_told_as_sentences_and_not_as_regular_expressions() -> None:
    patterns = [
        (section.__name__, name)
        for section in sections()
        for name, field in section.model_fields.items()
        if "pattern" in str(TypeAdapter(field.rebuild_annotation()).json_schema())
    ]
    assert patterns == []
    for wrong in ("a_b", "-a", "é", "a\n"):
        with pytest.raises(UsageError, match=r"^name = .*: must be 1 to 52 small letters, digits and '-'"):
            Experiment().override({"name": wrong})
    with pytest.raises(UsageError, match=r"EVEREST_MEMORY .*'2 GB': must be a number, with a unit of Kubernetes"):
        PlatformSettings.load(memory="2 GB")
