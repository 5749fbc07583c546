"""Costs agree with a count by hand."""

import pytest
import torch

from benchmarks.memory import saved_bytes
from everest.config import Experiment
from everest.costs import costs
from everest.model.cost import cost_numbers, flops_to_train, gflops_per_clip
from everest.model.memory import kept_per_clip
from everest.model.registry import classifier, pretrain_model
from everest.model.vit import set_recompute

SMALL = {
    "model.image_size": 64, "model.patch_size": 16, "model.num_frames": 8, "model.embed_dim": 96, "model.depth": 3,
    "model.num_heads": 4, "model.decoder_embed_dim": 48, "model.decoder_depth": 2, "model.decoder_num_heads": 2,
}  # fmt: skip
TOKENS, PIXELS = 4 * 16, 2 * 3 * 16 * 16
IMPORTANCE = 3 * 16 * PIXELS * 96  # what changes from each of four steps to the next


def block(tokens: int, width: int, last: int | None = None) -> int:
    """Multiply-adds: queries, keys, values; then of the last tokens attention, its output, and the MLP's two layers."""
    last = last or tokens
    return 3 * tokens * width**2 + 2 * last * tokens * width + 9 * last * width**2


def test_a_classifier_costs_what_its_layers_multiply() -> None:
    config = Experiment().override({"stage": "finetune", "classify.keep_ratio": 0.5, **SMALL})
    by_hand = IMPORTANCE + 32 * PIXELS * 96 + 3 * block(32, 96) + 96 * 5
    assert gflops_per_clip(classifier(config, 5), config) == pytest.approx(by_hand / 1e9, rel=0.02)


def test_pre_training_costs_what_its_layers_multiply() -> None:
    config = Experiment().override({"mask.keep_ratio": 0.5, "mask.visible_ratio": 0.25, **SMALL})
    encoder = IMPORTANCE + 16 * PIXELS * 96 + 3 * block(16, 96) + 16 * 96 * 48
    decoder = block(32, 48) + block(32, 48, last=16) + 16 * 48 * PIXELS
    assert gflops_per_clip(pretrain_model(config), config) == pytest.approx((encoder + decoder) / 1e9, rel=0.02)


def test_training_costs_a_backward_pass_of_all_that_learns() -> None:
    """Two products for each of the forward pass, one where nothing before it learns, none for importance."""
    config = Experiment().override({"stage": "finetune", "classify.keep_ratio": 0.5, **SMALL})
    by_hand = IMPORTANCE + 2 * 32 * PIXELS * 96 + 3 * (3 * block(32, 96) + 96 * 5)
    assert flops_to_train(classifier(config, 5), config) == pytest.approx(2 * by_hand, rel=0.001)


def test_looking_for_informative_frames_costs_what_changes_in_them() -> None:
    plain = Experiment().override({"stage": "finetune", **SMALL})
    selecting = plain.override({"frames.select": True, "frames.alpha": 2})
    more = gflops_per_clip(classifier(selecting, 5), selecting) - gflops_per_clip(classifier(plain, 5), plain)
    assert more == pytest.approx(7 * 16 * PIXELS * 96 / 1e9, rel=0.02)


def test_measuring_leaves_no_trace() -> None:
    config = Experiment().override(SMALL)
    model = pretrain_model(config).train()
    before, generator = {name: each.clone() for name, each in model.state_dict().items()}, torch.get_rng_state()
    gflops_per_clip(model, config)
    flops_to_train(model, config)
    kept_per_clip(model, config, in_bfloat16=False)
    assert model.training
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_a_runs_numbers_are_those_known_beforehand(stage: str, in_bfloat16: bool) -> None:
    config = Experiment().override({"stage": stage, "augment.mixup": 0, "augment.cutmix": 0, **SMALL})
    model = pretrain_model(config) if stage == "pretrain" else classifier(config, 5)
    found = cost_numbers(model, config, in_bfloat16)
    before = costs(config, 5, in_bfloat16)
    assert found["cost/parameters_m"] * 1e6 == pytest.approx(before.parameters)
    assert found["cost/gflops_per_clip"] * 1e9 == pytest.approx(before.multiply_adds)
    assert found["cost/published_gflops_per_clip"] * 1e9 == pytest.approx(before.published)
    assert found["cost/step_gflops_per_clip"] * 1e9 == pytest.approx(before.step_flops)
    assert found["cost/peak_mb_per_process"] * 1e6 == pytest.approx(before.peak_bytes)
    if not in_bfloat16:  # copies of the weights are kept there as well, once a batch
        assert found["cost/kept_mb_per_clip"] * 1e6 == pytest.approx(before.kept_bytes, rel=1e-3)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_kept_of_a_clip_grows_with_clips_alone_in_bfloat16_too(recompute: bool) -> None:
    """Though there copies of the weights are kept as well, once a batch."""
    config = Experiment().override(SMALL)
    model = pretrain_model(config).train()
    set_recompute(model, recompute)

    def of(clips: int) -> int:
        def loss() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return model(torch.zeros(clips, 8, 64, 64, 3, dtype=torch.uint8)).loss

        return saved_bytes(loss, model)

    assert kept_per_clip(model, config, in_bfloat16=True) == pytest.approx((of(9) - of(1)) / 8, rel=1e-3)
