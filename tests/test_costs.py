"""Costs known beforehand against the paper's, against real tensors, and against a count by hand."""

from pathlib import Path

import pytest
import torch

from benchmarks.memory import peak_bytes, saved_bytes
from everest.cli import command
from everest.config import Experiment
from everest.costs import costs
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.cost import gflops_per_clip, published_multiply_adds
from everest.model.registry import classifier, pretrain_model

SMALL = {
    "model.image_size": 64, "model.num_frames": 8, "model.embed_dim": 96, "model.depth": 3, "model.num_heads": 4,
    "model.decoder_embed_dim": 48, "model.decoder_depth": 2, "model.decoder_num_heads": 2, "optim.batch_size": 8,
    "optim.micro_batch": 4, "augment.mixup": 0, "augment.cutmix": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "printed"),
    [
        ("ucf101-pretrain", 19.8),
        ("videomae-ucf101-pretrain", 35.4),
        ("ucf101-finetune", 98.0),
        ("ssv2-finetune", 137.5),
        ("videomae-ucf101-finetune", 180.3),
    ],
)
def test_counted_as_papers_do_it_is_what_the_paper_prints(recipe: str, printed: float) -> None:
    assert published(Experiment.load(recipe)) == pytest.approx(printed, rel=0.012)


@pytest.mark.parametrize(
    ("recipe", "changes", "printed"),
    [
        ("kinetics400-small-pretrain", {"mask.keep_ratio": 0.4}, 6.3),
        ("kinetics400-pretrain", {"mask.keep_ratio": 0.4}, 21.5),
        ("kinetics400-large-pretrain", {"mask.keep_ratio": 0.4, "model.decoder_depth": 4}, 60.8),
        ("kinetics400-small-pretrain", {"mask.method": "tube"}, 11.6),
        ("kinetics400-large-pretrain", {"mask.method": "tube", "model.decoder_depth": 4}, 83.1),
        ("kinetics400-small-finetune", {}, 29.1),
        ("kinetics400-large-finetune", {}, 330.0),
        ("kinetics400-small-finetune", {"classify.method": "all"}, 57.0),
        ("kinetics400-large-finetune", {"classify.method": "all"}, 597.2),
    ],
)
def test_what_is_printed_for_kinetics_is_of_more_kept_tokens_and_a_small_decoder(
    recipe: str, changes: dict[str, object], printed: float
) -> None:
    assert published(Experiment.load(recipe).override(changes), 400) == pytest.approx(printed, rel=0.006)


def test_dual_costs_what_is_said_of_it_but_for_whole_tubes() -> None:
    """Whose 156 visible tokens are 160 here: no tube is shown in part."""
    config = Experiment.load("ucf101-pretrain").override({"mask.method": "dual"})
    assert published(config) == pytest.approx(24.4, rel=0.016)


def published(config: Experiment, classes: int = 101) -> float:
    """Billions of multiply-adds."""
    with torch.device("meta"):
        return published_multiply_adds(network(config, classes)) / 1e9


def network(config: Experiment, classes: int) -> PretrainModel | Classifier:
    return pretrain_model(config) if config.stage == "pretrain" else classifier(config, classes)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_known_beforehand_is_what_real_tensors_take(stage: str, recompute: bool) -> None:
    config = Experiment().override({"stage": stage, "optim.recompute": recompute, **SMALL})
    model = network(config, 5)
    found = costs(config, 5)
    assert found.published == published_multiply_adds(model)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.multiply_adds / 1e9 == pytest.approx(gflops_per_clip(model, config), rel=1e-6)

    from everest.model.vit import set_recompute

    set_recompute(model, recompute)
    clips = torch.zeros(4, 8, 64, 64, 3, dtype=torch.uint8)

    def loss() -> torch.Tensor:
        out = model(clips)
        return out.sum() if isinstance(out, torch.Tensor) else out.loss

    assert found.kept_bytes == saved_bytes(loss, model) // 4
    loss().backward()  # gradients are there
    peak = peak_bytes(lambda: loss().backward(), torch.device("cpu"))
    assert found.peak_bytes - 16 * found.parameters == pytest.approx(peak + clips.nbytes, rel=0.1)


def test_bfloat16_keeps_about_half() -> None:
    config = Experiment.load("ucf101-pretrain").override({"model.depth": 4, "model.decoder_depth": 2})
    assert costs(config, 5, in_bfloat16=True).kept_bytes < 0.65 * costs(config, 5).kept_bytes


def test_asking_for_costs_draws_from_no_generator() -> None:
    before = torch.get_rng_state()
    costs(Experiment().override(SMALL), 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_recipes_plan_says_length_cost_memory_and_gpu_hours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str, code: int = 0) -> str:
        assert command(["pretrain", "--recipe", "ucf101-pretrain", *sizes, "--plan", *arguments]) == code
        return "".join(capsys.readouterr())

    sizes = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    plan = said("--videos", "100", "--rate", "50")
    assert "38,400 of 8 clips, 12 an epoch" in plan
    assert "307,200" in plan
    assert f"{307200 / 50 / 3600:.1f} at 50 clips/s a GPU" in plan
    listed = tmp_path / "list.csv"
    listed.write_text("".join(f"{number}.mp4,0\n" for number in range(100)))
    assert "38,400 of 8 clips" in said("--data.train", str(listed))
    refused = said("--data.train", str(tmp_path / "no.csv"), code=2)
    assert refused.count("\n") == 1
    assert "no.csv" in refused
    assert "--videos N plans without it" in refused


def test_costs_of_methods_and_recipes_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["cost", "--recipe", "demo-pretrain", "--against", "tube", "clips-pretrain"]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == ["demo-pretrain", "tube", "clips-pretrain"]
    assert "G multiply-adds" in table
    assert command(["cost", "--recipe", "demo-finetune", "--against", "all", "random"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["demo-finetune", "all", "random"]
