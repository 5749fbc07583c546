"""Numbers computed with the authors' implementation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor

import everest
from everest.model.masks.clip import Clip
from everest.model.redundancy import clip_importance
from everest.training.optim import CosineSchedule, parameter_groups

SMALL = dict(image_size=64, embed_dim=48, depth=2, num_heads=3)
SMALL_DECODER = dict(decoder_embed_dim=24, decoder_depth=2, decoder_num_heads=3)


def arrays(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    loaded = {name: torch.from_numpy(array) for name, array in np.load(file).items()}
    weights = {name.removeprefix("weights/"): loaded.pop(name) for name in list(loaded) if name.startswith("weights/")}
    return loaded, weights


@pytest.fixture
def pretrain(golden: Path) -> Any:
    expected, weights = arrays(golden / "pretrain.npz")
    model = everest.create_pretrain_model("base", **SMALL, **SMALL_DECODER)
    report = everest.load_weights(model, weights)
    assert not report.missing
    assert not report.unexpected
    return expected, model


def noise_by_token(expected: dict[str, Tensor], kept: Tensor) -> Tensor:
    """Gives each token the noise it got there: tokens that tie are ordered by index here, arbitrarily there."""
    there = expected["kept"].argsort(dim=1)
    here = kept.argsort(dim=1)
    noise = torch.empty_like(expected["noise"])
    return noise.scatter_(1, here, expected["noise"].gather(1, there))


def test_importance_and_embeddings_agree(pretrain: Any) -> None:
    expected, model = pretrain
    tubelets = model.patch_embed.cut(expected["video"])
    torch.testing.assert_close(
        model.patch_embed.exact(tubelets).flatten(1, 2), expected["embeddings"].reshape(2, 128, 48), atol=1e-5, rtol=0
    )
    importance = clip_importance(model.patch_embed, tubelets, "l2")
    torch.testing.assert_close(importance.flatten(1), expected["importance"], atol=1e-5, rtol=0)


def test_pretraining_selects_predicts_and_learns_the_same(pretrain: Any) -> None:
    expected, model = pretrain
    kept = model(expected["video"]).kept
    assert torch.equal(kept.sort().values, expected["kept"].sort().values)

    out = model(expected["video"], noise_by_token(expected, kept))
    assert torch.equal(out.visible, expected["visible"])
    assert torch.equal(out.hidden, expected["hidden"])
    torch.testing.assert_close(out.prediction, expected["prediction"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.target, expected["target"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.loss, expected["loss"].reshape(()), atol=1e-4, rtol=0)

    out.loss.backward()
    for name, parameter in model.named_parameters():
        norm = parameter.grad.norm()
        torch.testing.assert_close(norm, expected[f"grad_norm/{name}"].reshape(()), atol=0, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("keep_ratio", "name"), [(0.6, "logits"), (1.0, "logits_all_tokens")])
def test_classifier_keeps_the_same_tokens_and_gives_the_same_logits(golden: Path, keep_ratio: float, name: str) -> None:
    expected, weights = arrays(golden / "finetune.npz")
    model = everest.create_classifier("base", num_classes=5, keep_ratio=keep_ratio, **SMALL).eval()
    assert not everest.load_weights(model, weights).missing
    if keep_ratio < 1:
        assert torch.equal(model.keep(Clip.cut(model.patch_embed, expected["video"], "l2")), expected["kept"])
    torch.testing.assert_close(model(expected["video"]), expected[name], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def shapes(golden: Path) -> Any:
    return json.loads((golden / "schedule_and_shapes.json").read_text())


def test_learning_rate_follows_the_same_cosine(shapes: Any) -> None:
    cosine = shapes["cosine"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cosine["base"])
    per_epoch = cosine["steps_per_epoch"]
    schedule = CosineSchedule(
        optimizer,
        steps=cosine["epochs"] * per_epoch,
        warmup=cosine["warmup_epochs"] * per_epoch,
        start=cosine["warmup_start"],
        end=cosine["final"],
    )
    for step, expected in enumerate(cosine["values"]):
        schedule.set(step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9), step


def test_layer_decay_scales_and_decays_the_same_parameters(shapes: Any) -> None:
    with torch.device("meta"):
        model = everest.create_classifier("base", num_classes=101)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: [group["lr_scale"], group["weight_decay"]]
        for group in parameter_groups(model, weight_decay=0.05, layer_decay=0.75)
        for parameter in group["params"]
    }
    expected = shapes["layer_decay_vit_base_0.75"]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name


def test_without_layer_decay_the_same_parameters_decay_as_timms() -> None:
    model = everest.create_pretrain_model("small")
    theirs = param_groups_weight_decay(model, 0.05, no_weight_decay_list={"mask_token"})
    for ours, expected in zip(parameter_groups(model, 0.05, layer_decay=1), theirs, strict=True):
        assert ours["weight_decay"] == expected["weight_decay"]
        assert [*map(id, ours["params"])] == [*map(id, expected["params"])]


@pytest.mark.parametrize("size", ["base", "large"])
def test_models_have_as_many_parameters(shapes: Any, size: Any) -> None:
    with torch.device("meta"):
        pretrain = everest.create_pretrain_model(size, decoder_depth=8)
        classifier = everest.create_classifier(size, num_classes=101)
    assert sum(p.numel() for p in pretrain.parameters()) == shapes["parameters"][f"pretrain_{size}"]
    assert sum(p.numel() for p in classifier.parameters()) == shapes["parameters"][f"finetune_{size}_101"]


def test_checkpoints_name_and_shape_their_tensors_alike(shapes: Any) -> None:
    with torch.device("meta"):
        pretrain = everest.create_pretrain_model("base", decoder_depth=8)
        classifier = everest.create_classifier("base", num_classes=101)
    for model, key in ((pretrain, "pretrain_base_state"), (classifier, "finetune_base_state")):
        assert {name: list(t.shape) for name, t in model.state_dict().items()} == shapes[key]
