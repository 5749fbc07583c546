"""Random changes: the same for all frames of a clip, and reproducible."""

from collections.abc import Callable

import pytest
import torch
from timm.data.mixup import Mixup
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from everest.config import AugmentConfig, Experiment, ModelConfig
from everest.data.rand_augment import rand_augment
from everest.data.transforms import (
    changed,
    cut_out,
    evenly_placed_crop,
    multi_scale_crop,
    random_crop,
    random_resized_crop,
    scale_short_side,
)
from everest.model.embed import TubeletEmbed
from everest.model.pixels import Pixels
from everest.model.redundancy import clip_importance
from everest.model.select import keep_important
from everest.seeding import seed_everything
from everest.training.finetune import FinetuneLoss

Transform = Callable[[Tensor], Tensor]


def transformed(clip: Tensor, config: Experiment) -> Tensor:
    crop = random_crop(*clip.shape[1:3], config)
    return changed(cut_out(clip, crop, 48), config)


TRANSFORMS: dict[str, Transform] = {
    "pretrain": lambda clip: transformed(clip, Experiment(stage="pretrain")),
    "finetune": lambda clip: transformed(clip, Experiment(stage="finetune")),
    "rand_augment": lambda clip: rand_augment(clip, "rand-m7-n4-mstd0.5-inc1"),
}


@pytest.fixture
def still() -> Tensor:
    return torch.randint(0, 256, (1, 64, 80, 3), dtype=torch.uint8).expand(6, -1, -1, -1).contiguous()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_all_frames_of_a_clip_are_changed_alike(still: Tensor, name: str) -> None:
    for seed in range(20):
        seed_everything(seed)
        out = TRANSFORMS[name](still)
        assert out.dtype == torch.uint8
        assert (out == out[:1]).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_seed_decides_the_change(still: Tensor, name: str) -> None:
    results = []
    for seed in (1, 1, 2, 3, 4):
        seed_everything(seed)
        results.append(TRANSFORMS[name](still))
    assert torch.equal(results[0], results[1])
    assert any(results[0].shape != other.shape or not torch.equal(results[0], other) for other in results[2:])


def test_flipping_is_off_where_left_and_right_matter() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).repeat(2, 64, 1)[..., None].expand(-1, -1, -1, 3).contiguous()
    flipped = dict.fromkeys((True, False), 0)
    for flip in flipped:
        for seed in range(40):
            seed_everything(seed)
            out = changed(ramp, Experiment(augment=AugmentConfig(flip=flip)))[0, 0, :, 0]
            flipped[flip] += int(out[0] > out[-1])
    assert flipped[False] == 0
    assert 8 < flipped[True] < 32


def test_multi_scale_crops_have_the_scales_asked_for() -> None:
    """Where x and y are painted into the pixels, a crop's range of values is its size."""
    y, x = torch.meshgrid(torch.arange(100), torch.arange(120), indexing="ij")
    clip = torch.stack([x, y, y], dim=-1).to(torch.uint8)[None]
    sides, places = set(), set()
    for seed in range(300):
        seed_everything(seed)
        out = cut_out(clip, multi_scale_crop(100, 120, (1.0, 0.66)), 200).float()
        width, height = (int((out[..., c].max() - out[..., c].min()).item()) + 1 for c in (0, 1))
        sides.add((round(height, -1), round(width, -1)))
        places.add((int(out[..., 0].min()), int(out[..., 1].min())))
    assert sides == {(100, 100), (100, 70), (70, 100), (70, 70)}
    assert len(places) > 20


@pytest.mark.parametrize("shape", [(240, 320), (64, 64), (48, 30), (10, 300), (300, 10), (3, 4)])
def test_a_random_resized_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    """From the same draws, where none of them fits too; and drawn from the same generator afterwards."""
    height, width = shape
    for area in ((0.08, 1.0), (0.5, 1.0)):
        for seed in range(100):
            torch.manual_seed(seed)
            top, left, tall, wide = v2.RandomResizedCrop.get_params(torch.empty(3, *shape), list(area), [3 / 4, 4 / 3])
            theirs = torch.rand(1)
            torch.manual_seed(seed)
            crop = random_resized_crop(height, width, area)
            assert torch.equal(torch.rand(1), theirs)
            assert (crop.left * width, crop.top * height) == pytest.approx((left, top))
            assert (crop.width * width, crop.height * height) == pytest.approx((wide, tall))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    ("shape", "size"), [((60, 84), 32), ((84, 60), 33), ((17, 20), 40), ((32, 50), 32), ((9, 9), 9)]
)
def test_scaling_is_torchvisions(frames: int, shape: tuple[int, int], size: int) -> None:
    clip = torch.randint(0, 256, (frames, *shape, 3), dtype=torch.uint8)
    theirs = v2.functional.resize(clip.permute(0, 3, 1, 2), [size], InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(scale_short_side(clip, size), theirs.permute(0, 2, 3, 1))


def test_test_crops_cover_both_ends_of_the_longer_side() -> None:
    wide = torch.arange(30, dtype=torch.uint8).repeat(2, 10, 1)[..., None].expand(-1, -1, -1, 3)
    starts = [int(evenly_placed_crop(wide, 10, where)[0, 0, 0, 0]) for where in (0, 0.5, 1)]
    assert starts == [0, 10, 20]


def still_clips() -> Tensor:
    picture = torch.randint(0, 256, (4, 1, 32, 32, 3), dtype=torch.uint8)
    return picture.expand(-1, 6, -1, -1, -1).contiguous()


def reaches_the_model(config: AugmentConfig, clips: Tensor, seed: int) -> Tensor:
    """A model that hands its input out shows what reached it."""
    seen: list[Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 5)

    seed_everything(seed)
    before = clips.clone()
    FinetuneLoss(config, 5, "cpu")(Spy(), clips, torch.arange(len(clips)) % 5)
    assert torch.equal(clips, before)
    assert seen[0].dtype == torch.uint8
    return seen[0]


def test_mixing_treats_the_frames_of_a_clip_alike() -> None:
    clips = still_clips()
    for seed in range(30):
        mixed = reaches_the_model(AugmentConfig(erase=0.0), clips, seed)
        assert torch.equal(mixed, mixed[:, :1].expand_as(clips))
    assert not torch.equal(mixed, clips)


@pytest.mark.parametrize("kind", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_mixing_is_timms_to_whole_pixel_values(kind: dict[str, float]) -> None:
    """timm mixes images of floats; a clip's frames are so many channels to it."""
    clips = torch.randint(0, 256, (4, 6, 32, 32, 3), dtype=torch.uint8)
    for seed in range(10):
        seed_everything(seed)
        images = clips.permute(0, 1, 4, 2, 3).flatten(1, 2).float()
        theirs = Mixup(kind["mixup"], kind["cutmix"], num_classes=5)(images, torch.arange(4))[0]
        expected = theirs.unflatten(1, (6, 3)).permute(0, 1, 3, 4, 2)
        ours = reaches_the_model(AugmentConfig(erase=0.0, **kind), clips, seed)
        assert float((ours - expected).abs().max()) <= 0.501
        assert not torch.equal(ours, clips)


def erased(clips: Tensor, seed: int) -> Tensor:
    return reaches_the_model(AugmentConfig(erase=1.0, mixup=0.0, cutmix=0.0), clips, seed)


def test_what_is_erased_in_a_still_clip_is_still() -> None:
    clips = still_clips()
    out = erased(clips, 0)
    assert torch.equal(out, out[:, :1].expand_as(out))
    normalized = Pixels(3).normalized(out)
    for i in range(4):
        noise = normalized[i][out[i] != clips[i]]
        assert len(noise) >= 0.02 * 32 * 32 * 3 * 6 * 0.8
        assert abs(float(noise.mean())) < 0.3
        assert 0.7 < float(noise.std()) < 1.3
    assert (
        len({tuple(torch.nonzero(out[i] != clips[i])[0].tolist()) for i in range(4)}) > 1
    )  # each clip in its own place


def test_erased_tokens_are_not_those_that_are_kept() -> None:
    """What does not change over time is kept last, also where all else moves little."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(20, 236, (8, 1, 64, 64, 3), generator=generator)
    clips = (picture + torch.randint(-20, 20, (8, 8, 64, 64, 3), generator=generator)).byte()
    torch.manual_seed(0)
    embed = TubeletEmbed(ModelConfig())
    out = erased(clips, 0)
    gone = embed.cut((out != clips).byte()).float().mean(-1).flatten(1) > 0.9  # tokens of nothing but noise
    assert gone.any()
    kept = keep_important(clip_importance(embed, embed.cut(out), "l2"), int(0.6 * gone.shape[1]))
    assert not gone.gather(1, kept).any()


@pytest.mark.parametrize("mix", [0.0, 0.8])
def test_the_loss_is_cross_entropy_with_smoothed_labels(mix: float) -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    loss = FinetuneLoss(AugmentConfig(erase=0.0, mixup=mix, cutmix=0.0, label_smoothing=0.1), 5, "cpu")
    clips = torch.randint(0, 256, (4, 2, 8, 8, 3), dtype=torch.uint8)
    found = loss(lambda _: logits, clips, labels)  # type: ignore[arg-type]
    plain = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    mirrored = torch.nn.functional.cross_entropy(logits, labels.flip(0), label_smoothing=0.1)
    low, high = sorted((plain.item(), mirrored.item()))
    assert (low - 1e-5 <= found.item() <= high + 1e-5) if mix else found.item() == pytest.approx(plain.item())
