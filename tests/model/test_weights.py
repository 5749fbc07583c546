"""Weights of other projects, read safely; the transformers library's own outputs are the measure."""

import argparse
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

import everest
from everest.export import Exported, save_model
from everest.model.registry import pretrain_model
from everest.model.weights import WeightsError

SIZE = dict(image_size=32, num_frames=4, patch_size=8)
SMALL = dict(**SIZE, embed_dim=48, depth=2, num_heads=3, decoder_embed_dim=24, decoder_depth=2, decoder_num_heads=3)
TOKENS = 2 * 4 * 4


def like(**more: Any) -> VideoMAEConfig:
    return VideoMAEConfig(
        **SIZE, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
        decoder_hidden_size=24, decoder_num_hidden_layers=2, decoder_num_attention_heads=3,
        decoder_intermediate_size=96, **more,
    )  # fmt: skip


def random(model: Any) -> Any:
    """Random weights everywhere, biases and norms too; and the norm eps the original checkpoints were trained with."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return model.eval()


@pytest.fixture
def video() -> torch.Tensor:
    return torch.randn(2, 3, 4, 32, 32)


@pytest.fixture(params=["state dict", "folder"])
def as_source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def save(model: Any) -> Any:
        if request.param == "state dict":
            return model.state_dict()
        model.save_pretrained(tmp_path)
        return tmp_path

    return save


def test_a_transformers_classifier_gives_its_own_logits(video: torch.Tensor, as_source: Any) -> None:
    theirs = random(VideoMAEForVideoClassification(like(num_labels=5)))
    ours = everest.create_classifier("base", num_classes=5, keep_ratio=1.0, **SMALL).eval()
    report = everest.load_weights(ours, as_source(theirs))
    assert not report.missing
    assert not report.unexpected
    torch.testing.assert_close(ours(video), theirs(video.transpose(1, 2)).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("encoder_norm", [True, False])
def test_a_transformers_pretraining_model_gives_its_own_pixels_and_loss(
    video: torch.Tensor, as_source: Any, encoder_norm: bool
) -> None:
    theirs = random(VideoMAEForPreTraining(like(use_mean_pooling=not encoder_norm)))
    ours = everest.create_pretrain_model(
        "base", keep_ratio=1.0, visible_ratio=0.25, encoder_norm=encoder_norm, **SMALL
    ).eval()
    report = everest.load_weights(ours, as_source(theirs))
    assert not report.missing
    assert not report.unexpected
    out = ours(video)
    masked = torch.zeros(2, TOKENS, dtype=torch.bool).scatter_(1, out.hidden, True)
    expected = theirs(video.transpose(1, 2), bool_masked_pos=masked)
    torch.testing.assert_close(out.prediction, expected.logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(out.loss, expected.loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("source", ["ours", "transformers"])
def test_a_pretraining_checkpoint_gives_a_classifier_its_encoder(source: str) -> None:
    pretrained = (
        everest.create_pretrain_model("base", **SMALL) if source == "ours" else random(VideoMAEForPreTraining(like()))
    )
    classifier = everest.create_classifier("base", num_classes=5, **SMALL)
    report = everest.load_weights(classifier, pretrained.state_dict())
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert all(
        name.startswith(("decoder.", "norm.", "mask_token", "encoder_to_decoder.")) for name in report.unexpected
    )
    encoder = pretrained.encoder if source == "ours" else None
    if encoder:
        assert torch.equal(classifier.blocks[1].mlp.fc1.weight, encoder.blocks[1].mlp.fc1.weight)


def test_a_classifier_checkpoint_gives_a_pretraining_model_its_encoder() -> None:
    classifier = everest.create_classifier("base", num_classes=5, **SMALL)
    model = everest.create_pretrain_model("base", **SMALL)
    report = everest.load_weights(model, classifier.state_dict())
    assert torch.equal(model.encoder.blocks[0].attn.qkv.weight, classifier.blocks[0].attn.qkv.weight)
    assert "encoder.patch_embed.proj.weight" in report.loaded


@pytest.mark.parametrize("nest", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_training_scripts_files_are_read_with_their_flags_beside(tmp_path: Path, nest: str | None, suffix: str) -> None:
    model = everest.create_classifier("base", num_classes=5, **SMALL)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    state["module.pos_embed"] = torch.zeros(1, TOKENS, 48)
    file = tmp_path / f"checkpoint{suffix}"
    torch.save({nest: state, "epoch": 3, "args": argparse.Namespace(lr=0.1)} if nest else state, file)
    fresh = everest.create_classifier("base", num_classes=5, **SMALL)
    report = everest.load_weights(fresh, file)
    assert not report.missing
    assert not report.unexpected
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    model = everest.create_classifier("base", num_classes=5, **SMALL)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    assert not everest.load_weights(model, tmp_path / "weights.safetensors").missing


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran-code",)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"head.weight": torch.zeros(1)}, "extra": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth is refused: it is a pickle that would run code"):
        everest.load_weights(everest.create_classifier("base", num_classes=5, **SMALL), "evil.pth")
    assert not (tmp_path / "ran-code").exists()


def test_a_wrong_shape_names_tensor_and_both_shapes_and_changes_nothing() -> None:
    other = everest.create_classifier("base", num_classes=7, **SMALL)
    model = everest.create_classifier("base", num_classes=5, **SMALL)
    before = model.blocks[0].attn.qkv.weight.clone()
    said = r"head\.weight has shape \(7, 48\) in the state dict and \(5, 48\) in the model; classify\.num_classes 7, or"
    with pytest.raises(WeightsError, match=said):
        everest.load_weights(model, other.state_dict())
    assert torch.equal(model.blocks[0].attn.qkv.weight, before)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pth", None, "does not exist"),
        ("text.pth", b"hello world", "damaged or no weights file"),
        ("cut.safetensors", b"\x10\x00\x00", "damaged or no weights file"),
        ("empty.pth", b"", "damaged or no weights file"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} .*{message}"):
        everest.load_weights(everest.create_classifier("base", num_classes=5, **SMALL), tmp_path / name)


def test_a_state_dict_of_something_else_is_refused() -> None:
    with pytest.raises(WeightsError, match="no tensor of this model"):
        everest.load_weights(everest.create_classifier("base", num_classes=5, **SMALL), {"conv1.weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 4}, "has model.depth 2, and the model here has 4"),
        ({"depth": 1}, "has model.depth 2, and the model here has 1"),
        ({"embed_dim": 96}, "has model.embed_dim 48, and the model here has 96"),
        ({"num_heads": 6}, "has model.num_heads 3, and the model here has 6"),
    ],
)
@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "transformers"])
def test_weights_of_another_structure_are_refused_with_both_numbers(
    tmp_path: Path, changes: dict[str, int], said: str, theirs: bool
) -> None:
    if theirs:
        VideoMAEForPreTraining(like()).save_pretrained(tmp_path)
    else:
        config = everest.Experiment().override({f"model.{name}": value for name, value in SMALL.items()})
        save_model(tmp_path / "model", Exported(pretrain_model(config), config, ()))
    ours = everest.create_classifier("base", num_classes=5, **{**SMALL, **changes})
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(WeightsError, match=re.escape(said)):
        everest.load_weights(ours, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
