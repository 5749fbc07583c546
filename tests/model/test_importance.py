"""Tokens are chosen in float32 or bfloat16, from stored pixels; float64 says which are right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import everest
from everest.config import Distance, ModelConfig
from everest.model.embed import TubeletEmbed
from everest.model.redundancy import clip_importance
from everest.model.select import keep_important

REAL = ("arm_wrestling.mp4", "dog.mp4", "flipping_a_pancake.mkv", "movie_scene.mp4", "part_0.mp4", "test.avi")


def real_clips(path: Path) -> Tensor:
    """Three pieces of a video from its corners and its middle, uint8 (3, 16, 224, 224, 3)."""
    frames = torch.from_numpy(everest.read_frames(path, range(32)))
    H, W = frames.shape[1] - 224, frames.shape[2] - 224
    return torch.stack([frames[::2, :224, :224], frames[1::2, H:, W:], frames[:16, H // 2 :, W // 2 :][:, :224, :224]])


def normalized(clips: Tensor) -> Tensor:
    """As floats (B, 3, T, H, W) in float64."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    return ((clips.double() / 255 - mean) / deviation).permute(0, 4, 1, 2, 3)


def chosen_in_float64(embed: TubeletEmbed, clips: Tensor, kept: int) -> Tensor:
    """From whole embeddings, by convolution."""
    weight, bias = embed.proj.weight.detach().double(), embed.proj.bias.detach().double()
    embedded = torch.nn.functional.conv3d(normalized(clips), weight, bias, stride=weight.shape[2:])
    x_BSND = embedded.flatten(3).permute(0, 2, 3, 1)
    change = (x_BSND[:, 1:] - x_BSND[:, :-1]).square().sum(-1)
    return keep_important(torch.cat([change[:, :1], change], dim=1), kept).sort(dim=1).values


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("video", REAL)
def test_real_clips_keep_the_tokens_that_float64_keeps(clips: Path, video: str, precision: torch.dtype) -> None:
    """bfloat16 is that of a GPU: the factors are rounded to it, the sums are not."""
    found = real_clips(clips / video)
    embed = TubeletEmbed(ModelConfig())
    change = embed.changes(embed.cut(found), precision).norm(dim=-1)
    importance = torch.cat([change[:, :1], change], dim=1)
    for kept in (470, 940):
        expected = chosen_in_float64(embed, found, kept)
        assert torch.equal(keep_important(importance, kept).sort(dim=1).values, expected)


@pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
def test_stored_pixels_and_normalised_floats_are_as_important(distance: Distance) -> None:
    clips = torch.randint(0, 256, (2, 6, 32, 32, 3), dtype=torch.uint8)
    embed = TubeletEmbed(ModelConfig())
    stored, floats = (clip_importance(embed, embed.cut(x), distance) for x in (clips, normalized(clips).float()))
    whole = everest.token_importance(embed(embed.cut(normalized(clips).float())), distance)
    torch.testing.assert_close(stored, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(floats, whole, atol=1e-5, rtol=1e-5)


def test_what_stands_still_changes_by_nothing_at_all() -> None:
    still = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8).expand(-1, 6, -1, -1, -1)
    embed = TubeletEmbed(ModelConfig())
    for clips in (still, normalized(still).float()):
        assert not clip_importance(embed, embed.cut(clips), "l2").any()


def test_models_take_clips_as_decoded_and_as_normalised_floats_alike() -> None:
    small = dict(image_size=32, num_frames=8, patch_size=8, embed_dim=48, depth=1, num_heads=3)
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8))
    floats = normalized(clips).float()

    model = everest.create_pretrain_model("base", decoder_embed_dim=24, decoder_depth=1, decoder_num_heads=3, **small)
    noise = torch.rand(2, model.mask.counts(4, 16).kept)
    stored, given = model(clips, noise), model(floats, noise)
    assert torch.equal(stored.kept, given.kept)
    for name in ("loss", "prediction", "target"):
        torch.testing.assert_close(getattr(stored, name), getattr(given, name), atol=2e-4, rtol=1e-4)

    classifier = everest.create_classifier("base", num_classes=5, **small)
    torch.testing.assert_close(classifier(clips), classifier(floats), atol=1e-5, rtol=1e-4)
