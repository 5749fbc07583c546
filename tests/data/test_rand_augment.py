"""RandAugment on a whole clip does to each frame what timm does to it with PIL."""

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import auto_augment as timm
from torch import Tensor

from everest.config import AugmentConfig
from everest.data import rand_augment as ours
from everest.data.rand_augment import rand_augment
from everest.seeding import seed_everything

POLICIES = (
    "rand-m7-n4-mstd0.5-inc1",
    "rand-m9-n3-p0.9-mstd101",
    "rand-m5-n2-mmax12",
    "rand-m9-n4-tweights",
    "rand-m6-t3a",
)
SETTINGS = {"translate_const": int(80 * 0.45), "img_mean": (124, 116, 104)}


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """Frames with detail on every scale, as photographs have, of different brightness and colours: (3, 80, 104, 3)."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        F.interpolate(torch.randn(3, 3, 5 * 2**n, 7 * 2**n, generator=generator), (80, 104), mode="bicubic") / 2**n
        for n in range(5)
    ]
    level = torch.tensor([70.0, 120, 170]).view(3, 1, 1, 1)
    return (level + 35 * sum(layers)).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def by_pil(change: Callable[[Image.Image], Image.Image], clip: Tensor) -> Tensor:
    """Frame by frame from the same random state."""
    states = random.getstate(), np.random.get_state()
    frames = []
    for frame in clip.numpy():
        random.setstate(states[0])
        np.random.set_state(states[1])
        frames.append(np.asarray(change(Image.fromarray(frame))))
    return torch.from_numpy(np.stack(frames))


def difference(one: Tensor, other: Tensor) -> float:
    return (one.float() - other.float()).abs().mean().item()


@pytest.mark.parametrize("name", timm.NAME_TO_OP)
def test_an_operation_does_what_timm_does_to_each_frame(clip: Tensor, name: str) -> None:
    before = clip.clone()
    for magnitude in (3, 8):
        for seed in range(3):  # both directions, both interpolations
            operation = timm.AugmentOp(name, 1.0, magnitude, SETTINGS)
            random.seed(seed)
            expected = by_pil(operation, clip)
            operation.aug_fn = ours.ON_CLIPS[operation.aug_fn]
            random.seed(seed)
            found = operation(clip)
            assert difference(found, expected) < 1, (magnitude, seed)
            assert found.dtype == torch.uint8
            assert found.is_contiguous()
    assert torch.equal(clip, before)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_operations_and_magnitudes_are_those_that_timm_draws(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the same seed; and the random numbers drawn afterwards are the same too."""
    AugmentConfig(rand_augment=policy)  # is a setting
    assert set(timm.NAME_TO_OP.values()) == set(ours.ON_CLIPS)
    settings = SETTINGS | {"translate_const": 9}
    drawn: list[tuple[object, ...]] = []

    def noted(name: str, change: Callable[..., object]) -> Callable[..., object]:
        def on_picture(picture: object, *level: float, **options: object) -> object:
            drawn.append((name, *level, options["fillcolor"]))
            if change is timm.posterize and level[0] < 1:  # Pillow has no answer
                return picture
            return change(picture, *level, **options)

        return on_picture

    clip_operations: dict[object, object] = ours.ON_CLIPS  # type: ignore[assignment]
    for name, change in list(timm.NAME_TO_OP.items()):
        marked = noted(change.__name__, change)
        monkeypatch.setitem(timm.NAME_TO_OP, name, marked)
        monkeypatch.setitem(clip_operations, marked, noted(change.__name__, ours.ON_CLIPS[change]))
    seen: list[list[tuple[object, ...]]] = []
    after = []
    for change in (
        lambda: timm.rand_augment_transform(policy, dict(settings))(Image.new("RGB", (24, 20))),
        lambda: rand_augment(torch.zeros(1, 20, 24, 3, dtype=torch.uint8), policy),
    ):
        drawn.clear()
        for seed in range(50):
            seed_everything(seed)
            drawn.append((seed,))
            change()
        seen.append(list(drawn))
        after.append((random.random(), np.random.rand()))
    assert seen[0] == seen[1]
    assert len(seen[0]) > 70
    assert after[0] == after[1]


def test_half_of_four_operations_are_done_and_each_as_often() -> None:
    counts: Counter[str] = Counter()
    policy = "rand-m7-n4-mstd0.5-inc1"
    clip = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    before = dict(ours.ON_CLIPS)

    def counted(name: str) -> Callable[..., Tensor]:
        def on_clip(clip: Tensor, *_: float, **__: object) -> Tensor:
            counts[name] += 1
            return clip

        return on_clip

    try:
        ours.ON_CLIPS.update({change: counted(change.__name__) for change in before})
        for seed in range(1000):
            seed_everything(seed)
            rand_augment(clip, policy)
    finally:
        ours.ON_CLIPS.update(before)
    assert len(counts) == 15
    assert sum(counts.values()) == pytest.approx(2000, rel=0.07)
    assert all(count == pytest.approx(133, rel=0.35) for count in counts.values())


def test_a_policy_does_what_timm_does_to_each_frame(clip: Tensor) -> None:
    """Also where operations follow each other, as what one rounds another may pull apart."""
    policy = "rand-m7-n4-mstd0.5-inc1"
    differences = []
    for seed in range(25):
        seed_everything(seed)
        expected = by_pil(timm.rand_augment_transform(policy, dict(SETTINGS)), clip)
        seed_everything(seed)
        differences.append(difference(rand_augment(clip, policy), expected))
    assert float(np.mean(differences)) < 0.5
    assert max(differences) < 4


@pytest.mark.parametrize("shape", [(1, 40, 52), (2, 1, 1), (2, 2, 3), (3, 33, 17)], ids=str)
def test_clips_of_any_size_and_layout_are_changed_and_left_as_they_were(shape: tuple[int, int, int]) -> None:
    planes = torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
    clip, before = planes.permute(0, 2, 3, 1), planes.clone()  # not contiguous
    for seed in range(20):
        seed_everything(seed)
        found = rand_augment(clip, "rand-m9-n4-p0.9-mstd0.5-inc1")
        seed_everything(seed)
        assert torch.equal(found, rand_augment(clip.contiguous(), "rand-m9-n4-p0.9-mstd0.5-inc1"))
        assert found.shape == clip.shape
    assert torch.equal(planes, before)


def test_a_clip_posterized_to_no_bits_is_black(clip: Tensor) -> None:
    """A magnitude of 10 leaves none, which Pillow refuses."""
    assert ours.posterize(clip, 0).max() == 0
    assert torch.equal(ours.posterize(clip, 8), clip)
