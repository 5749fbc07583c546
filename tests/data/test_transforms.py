"""Random changes: the same for all frames of a clip, and reproducible."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from everest.config import AugmentConfig, Experiment, ModelConfig
from everest.data.rand_augment import rand_augment
from everest.data.transforms import (
    changed,
    cut_out,
    evenly_placed_crop,
    multi_scale_crop,
    random_crop,
)
from everest.model.embed import TubeletEmbed
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


def test_test_crops_cover_both_ends_of_the_longer_side() -> None:
    wide = torch.arange(30, dtype=torch.uint8).repeat(2, 10, 1)[..., None].expand(-1, -1, -1, 3)
    starts = [int(evenly_placed_crop(wide, 10, where)[0, 0, 0, 0]) for where in (0, 0.5, 1)]
    assert starts == [0, 10, 20]


def test_mixing_treats_the_frames_of_a_clip_alike() -> None:
    """A model that hands its input out shows what reached it."""
    video = torch.randn(4, 3, 1, 32, 32).expand(-1, -1, 6, -1, -1).contiguous()
    seen: list[Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 5)

    for seed in range(30):
        seed_everything(seed)
        loss = FinetuneLoss(AugmentConfig(erase=0.0), 5, "cpu")
        loss(Spy(), video.clone(), torch.arange(4))
        assert torch.equal(seen[-1], seen[-1][:, :, :1].expand_as(video))
    assert not torch.equal(seen[-1], video)


def erased(video: Tensor, seed: int) -> Tensor:
    seen: list[Tensor] = []

    class Spy(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 5)

    seed_everything(seed)
    before = video.clone()
    only_erasing = AugmentConfig(erase=1.0, mixup=0.0, cutmix=0.0)
    FinetuneLoss(only_erasing, 5, "cpu")(Spy(), video, torch.zeros(len(video), dtype=torch.long))
    assert torch.equal(video, before)
    return seen[0]


def test_what_is_erased_in_a_still_clip_is_still() -> None:
    video = torch.randn(4, 3, 1, 32, 32).expand(-1, -1, 6, -1, -1).contiguous()
    out = erased(video, 0)
    assert torch.equal(out, out[:, :, :1].expand_as(out))
    for noise in (out[i][out[i] != video[i]] for i in range(4)):
        assert len(noise) >= 0.02 * 32 * 32 * 3 * 6 * 0.8
        assert abs(float(noise.mean())) < 0.3
        assert 0.7 < float(noise.std()) < 1.3
    assert (
        len({tuple(torch.nonzero(out[i] != video[i])[0].tolist()) for i in range(4)}) > 1
    )  # each clip in its own place


def test_erased_tokens_are_not_those_that_are_kept() -> None:
    """What does not change over time is kept last, also where all else moves little."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(8, 3, 1, 64, 64, generator=generator) + 0.2 * torch.randn(8, 3, 8, 64, 64, generator=generator)
    torch.manual_seed(0)
    embed = TubeletEmbed(ModelConfig())
    out = erased(video, 0)
    gone = embed.cut((out != video).float()).mean(-1).flatten(1) == 1  # tokens of nothing but noise
    assert gone.any()
    kept = keep_important(clip_importance(embed, embed.cut(out), "l2"), int(0.6 * gone.shape[1]))
    assert not gone.gather(1, kept).any()


@pytest.mark.parametrize("mix", [0.0, 0.8])
def test_the_loss_is_cross_entropy_with_smoothed_labels(mix: float) -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    loss = FinetuneLoss(AugmentConfig(erase=0.0, mixup=mix, cutmix=0.0, label_smoothing=0.1), 5, "cpu")
    found = loss(lambda _: logits, torch.randn(4, 3, 2, 8, 8), labels)  # type: ignore[arg-type]
    plain = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    mirrored = torch.nn.functional.cross_entropy(logits, labels.flip(0), label_smoothing=0.1)
    low, high = sorted((plain.item(), mirrored.item()))
    assert (low - 1e-5 <= found.item() <= high + 1e-5) if mix else found.item() == pytest.approx(plain.item())
