"""Clips, tubelets and grids of other sizes, and weights that come from another one than the model's."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor

import everest
from everest.config import Experiment
from everest.export import Exported, load_model, save_model
from everest.model.positions import Grid, sinusoid_positions, stretched_positions
from everest.model.registry import pretrain_model
from everest.model.resample import resample_embedding, resample_pixels
from everest.model.weights import WeightsError
from tests.model.test_weights import like

NARROW = dict(embed_dim=24, depth=1, num_heads=2, decoder_embed_dim=12, decoder_depth=1, decoder_num_heads=2)
SIZES: dict[str, dict[str, int]] = {
    "24 frames": dict(num_frames=24, image_size=64),
    "32 frames": dict(num_frames=32, image_size=64),
    "64 frames": dict(num_frames=64, image_size=64),
    "384 px": dict(num_frames=4, image_size=384),
    "patches of 8": dict(num_frames=4, image_size=64, patch_size=8),
    "patches of 14": dict(num_frames=4, image_size=112, patch_size=14),
    "patches of 32": dict(num_frames=8, image_size=128, patch_size=32),
    "tubelets of 1": dict(num_frames=5, image_size=64, tubelet_size=1),
    "tubelets of 4": dict(num_frames=16, image_size=64, tubelet_size=4),
}


def smooth(frames: int, side: int) -> Tensor:
    """The same few waves of space and time, sampled more or less finely: (1, 3, T, H, W)."""
    t, y, x = (((torch.arange(n) + 0.5) / n).double() for n in (frames, side, side))
    colours = [
        torch.sin(2 * a * x + 3 * y[:, None] + b * t[:, None, None] + c)
        for a, b, c in ((1.0, 0.4, 0.1), (1.5, 0.2, 1.0), (0.5, 0.6, 2.0))
    ]
    return torch.stack(colours)[None].float()


@pytest.mark.parametrize("size", SIZES)
def test_clips_and_tubelets_of_any_size_have_as_many_tokens_as_can_be_counted(size: str) -> None:
    """By marking every pixel with the tubelet that it is in."""
    given: dict[str, Any] = dict(patch_size=16, tubelet_size=2) | SIZES[size]
    T, H, t, p = (given[name] for name in ("num_frames", "image_size", "tubelet_size", "patch_size"))
    numbers = np.indices((T, H, H))
    marks = {(a // t, b // p, c // p) for a, b, c in numbers.reshape(3, -1).T[:: min(t, p)].tolist()}
    tokens = len(marks)
    clips = torch.randint(0, 256, (2, T, H, H, 3), dtype=torch.uint8)

    model = everest.create_pretrain_model("base", **NARROW, **given)
    out = model(clips)
    assert model.config.tokens == tokens
    assert out.kept.shape == (2, int(0.3 * tokens))
    assert out.visible.shape == (2, int(0.1 * tokens))
    assert out.prediction.shape == (2, int(0.3 * tokens) - int(0.1 * tokens), t * p * p * 3)
    out.loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())
    assert torch.equal(model.encoder.positions.table, sinusoid_positions(tokens, 24))

    classifier = everest.create_classifier("base", num_classes=5, **NARROW, **given)
    entered: list[int] = []
    classifier.blocks[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].shape[1]))
    F.cross_entropy(classifier(clips), torch.tensor([0, 1])).backward()
    assert entered == [int(0.6 * tokens)]
    assert all(each.grad is not None and each.grad.isfinite().all() for each in classifier.parameters())


@pytest.mark.parametrize("size", [(2, 8, 8), (2, 14, 14), (2, 32, 32), (1, 16, 16), (4, 16, 16), (3, 20, 12)])
def test_a_resampled_embedding_is_the_one_that_least_squares_finds(size: tuple[int, int, int]) -> None:
    """Of all kernels the smallest that does to scaled noise what the old one did to noise, as nearly as possible."""
    old = (2, 16, 16)
    kernel = torch.randn(4, 3, *old)
    found = resample_embedding(kernel, size)
    assert found.shape == (4, 3, *size)
    noise = torch.eye(math.prod(old), dtype=torch.float64).unflatten(1, old)
    for axis, new in enumerate(size, 1):  # scaled along one axis after the other, by torch alone
        moved = noise.movedim(axis, -1)
        flat = moved.reshape(-1, 1, 1, moved.shape[-1])
        scaled = F.interpolate(flat, (1, new), mode="bicubic", antialias=True)
        noise = scaled.reshape(*moved.shape[:-1], new).movedim(-1, axis)
    expected = torch.linalg.lstsq(noise.flatten(1), kernel.double().flatten(2).flatten(0, 1).T, driver="gelsd").solution
    torch.testing.assert_close(found, expected.T.unflatten(1, size).unflatten(0, (4, 3)).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("patch", [8, 14, 32])
def test_a_patch_embedding_is_resampled_as_timm_does_it(patch: int) -> None:
    kernel = torch.randn(6, 3, 1, 16, 16)
    expected = resample_patch_embed(kernel[:, :, 0], [patch, patch])
    torch.testing.assert_close(resample_embedding(kernel, (1, patch, patch))[:, :, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("tubelet", "patch", "off"), [(2, 32, 0.01), (4, 24, 0.01), (2, 14, 0.01), (1, 16, 0.05), (2, 8, 0.05)]
)
def test_a_smooth_clip_sampled_otherwise_has_the_same_tokens(tubelet: int, patch: int, off: float) -> None:
    """Of an embedding as smooth as learned ones are: shrunk tubelets have no room for more."""
    old = everest.create_pretrain_model("base", **NARROW, num_frames=8, image_size=64)
    new = everest.create_pretrain_model(
        "base", **NARROW, num_frames=4 * tubelet, image_size=4 * patch, tubelet_size=tubelet, patch_size=patch
    )
    kernel = old.patch_embed.proj.weight
    kernel.data = F.interpolate(torch.randn(24, 3, 1, 4, 4), kernel.shape[2:], mode="trilinear") / 16
    everest.load_weights(new, old.state_dict())
    before = old.patch_embed(old.patch_embed.cut(smooth(8, 64)))
    after = new.patch_embed(new.patch_embed.cut(smooth(4 * tubelet, 4 * patch)))
    assert (after - before).norm() < off * (before - before.mean(dim=(0, 1, 2))).norm()


@pytest.mark.parametrize("size", [(2, 8, 8), (4, 24, 32)])
def test_the_pixels_of_a_resampled_decoder_are_those_it_gave_before_scaled(size: tuple[int, int, int]) -> None:
    head = torch.nn.Linear(6, 2 * 16 * 16 * 3)
    x = torch.randn(5, 6)
    given = head(x).unflatten(1, (2, 16, 16, 3)).permute(0, 4, 1, 2, 3).flatten(0, 1)
    within = F.interpolate(given, size[1:], mode="bicubic", antialias=True)
    over_time = F.interpolate(
        within.flatten(2)[:, None].mT, (size[1] * size[2], size[0]), mode="bicubic", antialias=True
    )
    expected = over_time[:, 0].mT.reshape(5, 3, *size).permute(0, 2, 3, 4, 1).flatten(1)
    weight, bias = (resample_pixels(each, (2, 16, 16), size) for each in (head.weight.data, head.bias.data))
    torch.testing.assert_close(F.linear(x, weight, bias), expected, atol=1e-4, rtol=1e-4)


def test_stretched_positions_lie_between_those_of_the_four_places_and_two_steps_around() -> None:
    origin, grid, dim = Grid(4, 3), Grid(6, 5), 8
    found = stretched_positions(origin, grid, dim).view(6, 5, 5, dim)
    table = sinusoid_positions(4 * 9, dim).view(4, 3, 3, dim).numpy()

    def around(at: int, new: int, old: int) -> list[tuple[int, float]]:
        """Which are around the middle of a place, and their weights."""
        middle = min(max((at + 0.5) * old / new - 0.5, 0), old - 1)
        first = int(middle)
        return [(first, 1 - middle + first), (min(first + 1, old - 1), middle - first)]

    for step, row, column in np.ndindex(6, 5, 5):
        expected = sum(
            a * b * c * table[s, r, q]
            for s, a in around(step, 6, 4)
            for r, b in around(row, 5, 3)
            for q, c in around(column, 5, 3)
        )
        np.testing.assert_allclose(found[step, row, column], expected, atol=1e-5)


def saved(folder: Path, **sizes: int) -> Experiment:
    """An exported autoencoder of random weights."""
    config = Experiment().override({f"model.{name}": value for name, value in (NARROW | sizes).items()})
    save_model(folder, Exported(pretrain_model(config), config, ()))
    return config


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "transformers"])
def test_weights_bring_the_positions_of_the_grid_they_learned_on_and_keep_them(tmp_path: Path, theirs: bool) -> None:
    if theirs:
        from transformers import VideoMAEForPreTraining

        VideoMAEForPreTraining(like(use_mean_pooling=False)).save_pretrained(tmp_path / "first")
        widths = dict(embed_dim=48, depth=2, num_heads=3, decoder_embed_dim=24, decoder_depth=2, decoder_num_heads=3)
    else:
        saved(tmp_path / "first", num_frames=4, image_size=32, patch_size=8)
        widths = NARROW
    sizes = dict(num_frames=8, image_size=48, patch_size=8)
    second = everest.create_pretrain_model("base", **widths, **sizes)
    report = everest.load_weights(second, tmp_path / "first")
    assert not report.missing
    assert report.fitted == ["positions stretched from 2 steps of 4 x 4 places to 4 steps of 6 x 6 places"]
    expected = stretched_positions(Grid(2, 4), Grid(4, 6), second.config.embed_dim)
    assert torch.equal(second.encoder.positions.table, expected)

    config = Experiment().override({f"model.{name}": value for name, value in (widths | sizes).items()})
    save_model(tmp_path / "second", Exported(second, config, ()))
    again = load_model(tmp_path / "second").model
    clips = torch.randint(0, 256, (1, 8, 48, 48, 3), dtype=torch.uint8)
    noise = torch.rand(1, second.mask.counts(4, 36).kept)
    assert torch.equal(again(clips, noise).prediction, second.eval()(clips, noise).prediction)
    with pytest.raises(ValueError, match="positions are stretched over 144"):
        again(torch.zeros(1, 10, 48, 48, 3, dtype=torch.uint8))

    third = everest.create_classifier("base", 5, **widths, num_frames=4, image_size=32, patch_size=8)
    assert everest.load_weights(third, tmp_path / "second").fitted == []  # back on the grid of the first
    assert torch.equal(third.positions.table, sinusoid_positions(2 * 16, third.config.embed_dim))
    assert "positions.origin" not in third.state_dict()


def test_weights_of_other_tubelets_say_so_and_change_nothing_else(tmp_path: Path) -> None:
    first = saved(tmp_path, num_frames=4, image_size=32, patch_size=8)
    model = everest.create_classifier("base", 5, **NARROW, num_frames=4, image_size=32, patch_size=4, tubelet_size=1)
    report = everest.load_weights(model, tmp_path)
    assert report.fitted == [
        "tubelets resampled from 2 x 8 x 8 to 1 x 4 x 4",
        "positions stretched from 2 steps of 4 x 4 places to 4 steps of 8 x 8 places",
    ]
    there = load_model(tmp_path).model.state_dict()
    for name in report.loaded:
        same = torch.equal(model.state_dict()[name], there[f"encoder.{name}"])
        assert same == (name != "patch_embed.proj.weight"), name
    assert first.model.patch_size == 8


def test_weights_that_do_not_say_their_clips_size_leave_positions_as_computed_and_say_so(tmp_path: Path) -> None:
    old = everest.create_pretrain_model("base", **NARROW, num_frames=4, image_size=64)
    torch.save(old.state_dict(), tmp_path / "bare.pth")
    new = everest.create_pretrain_model("base", **NARROW, num_frames=4, image_size=96)
    (said,) = everest.load_weights(new, tmp_path / "bare.pth").fitted
    assert said.startswith(
        "positions not stretched, but those of 2 steps of 6 x 6 places: no experiment.yaml or config"
    )
    assert torch.equal(new.encoder.positions.table, sinusoid_positions(72, 24))
    published = everest.create_pretrain_model("base", **NARROW)
    assert everest.load_weights(published, tmp_path / "bare.pth").fitted == []


def test_weights_of_another_structure_are_refused_with_all_that_would_fit(tmp_path: Path) -> None:
    saved(tmp_path, num_frames=4, image_size=64)
    wide = NARROW | dict(depth=3, num_heads=4, embed_dim=48, decoder_depth=2)
    model = everest.create_pretrain_model("base", **wide, num_frames=4, image_size=64, mlp_ratio=2)
    with pytest.raises(WeightsError) as refused:
        everest.load_weights(model, tmp_path)
    assert str(refused.value) == (
        f"{tmp_path} has model.depth 1, and the model here has 3; --model.depth 1 --model.embed_dim 24 "
        "--model.mlp_ratio 4 --model.num_heads 2 --model.decoder_depth 1 fits"
    )
