"""Embedding, importance and selection against a plain restatement of their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import everest
from everest.config import MaskConfig, ModelConfig
from everest.model.embed import TubeletEmbed
from everest.model.positions import sinusoid_positions
from everest.model.select import keep_important, split_kept
from everest.model.targets import reconstruction_target

SMALL = dict(image_size=32, num_frames=8, patch_size=8, embed_dim=48, depth=1, num_heads=3,
             decoder_embed_dim=24, decoder_depth=1, decoder_num_heads=3)  # fmt: skip


def test_tubelet_embedding_is_the_convolution_it_replaces() -> None:
    embed = TubeletEmbed(ModelConfig(**SMALL))
    video = torch.randn(2, 3, 8, 32, 48)
    expected = embed.proj(video).flatten(3).permute(0, 2, 3, 1)  # (B, S, N, D)
    torch.testing.assert_close(embed(embed.cut(video)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embed.exact(embed.cut(video)), expected, atol=1e-5, rtol=1e-5)


def test_positions_follow_their_formula() -> None:
    table = sinusoid_positions(50, 12)
    for p in (0, 1, 17, 49):
        for i in range(12):
            angle = p / 10000 ** (2 * (i // 2) / 12)
            assert table[p, i] == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)


@pytest.mark.parametrize("distance", ["l2", "l1", "cosine", "cka"])
def test_importance_is_the_distance_to_the_step_before(distance: str) -> None:
    x = torch.randn(2, 4, 5, 7)
    found = everest.token_importance(x, distance)
    for b in range(2):
        for step in range(4):
            for j in range(5):
                before, after = (x[b, s, j].double().numpy() for s in ((step - 1, step) if step else (0, 1)))
                expected = {
                    "l2": np.linalg.norm(after - before),
                    "l1": np.abs(after - before).sum(),
                    "cka": 1 - np.corrcoef(after, before)[0, 1] ** 2,
                    "cosine": 1 - after @ before / np.linalg.norm(after) / np.linalg.norm(before),
                }[distance]
                assert found[b, step, j] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_importance_carries_no_gradient_and_refuses_an_unknown_distance() -> None:
    x = torch.randn(1, 3, 2, 4, requires_grad=True)
    assert not everest.token_importance(x).requires_grad
    with pytest.raises(ValueError, match="distance 'l3' is not l2, l1, cosine or cka"):
        everest.token_importance(x, "l3")


def test_the_most_important_are_kept_and_ties_go_to_the_earlier() -> None:
    importance = torch.tensor([[[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 2.0]]])
    assert keep_important(importance, 5).tolist() == [[7, 0, 3, 2, 5]]


def test_a_perfectly_still_clip_keeps_its_first_tokens() -> None:
    model = everest.create_pretrain_model("base", **SMALL)
    still = torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 8, -1, -1)
    kept = model(still).kept
    assert kept.tolist() == [list(range(kept.shape[1]))]


def test_noise_decides_what_is_visible() -> None:
    kept = torch.tensor([[9, 4, 7, 1]])
    noise = torch.tensor([[0.9, 0.1, 0.5, 0.2]])
    visible, hidden = split_kept(kept, 2, noise)
    assert visible.tolist() == [[1, 4]]
    assert hidden.tolist() == [[7, 9]]


def test_targets_are_pixels_normalised_by_tubelet_and_channel() -> None:
    embed = TubeletEmbed(ModelConfig(**SMALL))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = np.random.default_rng(0).uniform(size=(3, 8, 32, 32))
    video = torch.from_numpy((pixels - mean[:, None, None, None]) / std[:, None, None, None]).float()[None]
    found = reconstruction_target(embed.pixels.unit(embed.cut(video).flatten(1, 2)))[0].numpy()
    for token, (step, row, column) in enumerate(np.ndindex(4, 4, 4)):
        cut = pixels[:, 2 * step : 2 * step + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        flat = cut.transpose(1, 2, 3, 0).reshape(-1, 3)  # (time, y, x), channel
        expected = (flat - flat.mean(0)) / (flat.std(0, ddof=1) + 1e-6)
        np.testing.assert_allclose(found[token], expected.reshape(-1), atol=2e-4)


@pytest.mark.parametrize("shape", [(4, 32, 32), (16, 32, 64), (6, 64, 32), (2, 32, 32)])
def test_any_even_length_and_any_multiple_of_the_patch_is_taken(shape: tuple[int, int, int]) -> None:
    T, H, W = shape
    tokens = T // 2 * (H // 8) * (W // 8)
    video = torch.randn(2, 3, T, H, W)
    out = everest.create_pretrain_model("base", keep_ratio=0.5, visible_ratio=0.2, **SMALL)(video)
    assert out.kept.shape == (2, int(0.5 * tokens))
    together = torch.cat([out.visible, out.hidden], dim=1).sort().values
    assert torch.equal(together, out.kept.sort().values)
    assert everest.create_classifier("base", num_classes=3, **SMALL)(video).shape == (2, 3)


@pytest.mark.parametrize("shape", [(1, 3, 7, 32, 32), (1, 3, 8, 30, 32), (1, 4, 8, 32, 32)])
def test_a_clip_that_does_not_divide_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="video of shape"):
        everest.create_pretrain_model("base", **SMALL)(torch.zeros(shape))


def test_selection_is_the_same_under_bfloat16_autocast() -> None:
    model = everest.create_pretrain_model("base", **SMALL)
    video, noise = torch.randn(2, 3, 8, 32, 32), torch.rand(2, MaskConfig().counts(4, 16).kept)
    plain = model(video, noise)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(video, noise)
    assert torch.equal(plain.kept, low.kept)
    assert torch.equal(plain.hidden, low.hidden)
    torch.testing.assert_close(plain.loss, low.loss, rtol=0.02, atol=0.02)


def test_only_visible_tokens_teach_the_embedding() -> None:
    model = everest.create_pretrain_model("base", **SMALL)
    video = torch.randn(1, 3, 8, 32, 32)
    noise = torch.rand(1, MaskConfig().counts(4, 16).kept)
    model(video, noise).loss.backward()
    found = model.patch_embed.proj.weight.grad.clone()

    model.zero_grad()
    convolved = model.patch_embed.proj(video).flatten(2).transpose(1, 2)
    visible = model(video, noise).visible
    x = convolved.gather(1, visible[..., None].expand(-1, -1, 48))
    x = x + sinusoid_positions(64, 48)[visible]
    for block in model.encoder.blocks:
        x = block(x)
    with torch.no_grad():
        out = model(video, noise)
    positions = sinusoid_positions(64, 24)
    x = model.encoder_to_decoder(model.encoder.norm(x)) + positions[out.visible]
    x = torch.cat([x, model.mask_token + positions[out.hidden]], dim=1)
    nn.functional.mse_loss(model.decoder(x, out.hidden.shape[1]), out.target).backward()
    torch.testing.assert_close(found, model.patch_embed.proj.weight.grad, atol=1e-6, rtol=1e-4)


def test_unknown_overrides_name_the_nearest() -> None:
    with pytest.raises(everest.errors.UsageError, match=r"did you mean 'model\.embed_dim'"):
        everest.create_pretrain_model("base", embed_dims=3)
