"""Tokens that move against the camera: the map that is found, and what is kept by it, against rendered truth."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.camera import Filmed
from everest.config import Distance, ModelConfig
from everest.data.camera import CameraMotion
from everest.data.decode import read_frames
from everest.data.synthetic import SceneName
from everest.model.embed import TubeletEmbed
from everest.model.masks import rero, residual
from everest.model.masks.clip import Clip
from everest.model.motion import camera_motion


def found_between(after: Tensor, before: Tensor) -> Tensor:
    """Both (n, H, W): (n, 2, 3)."""
    return camera_motion(torch.stack([before, after], dim=1), apart=1)[:, 0]


def textured(size: int, seed: int = 0) -> Tensor:
    noise = torch.randn(1, 1, size // 6, size // 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (size, size), mode="bicubic")[0, 0]


@pytest.mark.parametrize(
    ("x", "y", "zoom", "turn"), [(9, -6, 1, 0), (0, 0, 1.2, 0), (-3, 4, 0.85, 0.05), (0.6, 0, 1, 0)]
)
def test_a_known_motion_is_found_though_a_quarter_of_the_frame_moves_otherwise(
    x: float, y: float, zoom: float, turn: float
) -> None:
    size = 96
    cos, sin = zoom * math.cos(turn), zoom * math.sin(turn)
    truth = torch.tensor([[[cos, -sin, 2 * x / size], [sin, cos, 2 * y / size]]])
    before = textured(size)
    grid = F.affine_grid(truth, [1, 1, size, size], align_corners=False)
    after = F.grid_sample(before[None, None], grid, "bicubic", align_corners=False)[0]
    after[0, 24:72, 24:72] = textured(size, seed=1)[24:72, 24:72]
    found = found_between(after, before[None])
    off = F.affine_grid(found - truth, [1, 1, size, size], align_corners=False).abs().amax() * size / 2
    assert off < 0.5  # pixels, at any place


def test_what_stands_still_or_shows_nothing_does_not_move() -> None:
    still = torch.stack([textured(64), torch.zeros(64, 64)])
    noise = 0.05 * torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(3))
    unmoved = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    assert torch.equal(found_between(still, still), unmoved)
    assert torch.equal(found_between(still + noise, still)[:1], unmoved[:1])


def test_a_faint_background_outvotes_bright_things_that_move_alike() -> None:
    """They have thirty times its contrast, and a third of the frame."""
    bright = torch.zeros(64, 64)
    for row, column in ((6, 6), (6, 36), (36, 6), (36, 36)):
        bright[row : row + 18, column : column + 18] = 1.0
    ground = 0.03 * textured(80)
    before = torch.where(bright > 0, bright, ground[8:72, 8:72])
    right = bright.roll(4, dims=1)
    still, panned = (torch.where(right > 0, right, ground[8:72, x : x + 64]) for x in (8, 6))
    still_map, pan_map = found_between(torch.stack([still, panned]), before.expand(2, -1, -1))
    assert torch.equal(still_map, torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    assert pan_map[0, 2] * 32 == pytest.approx(-2, abs=0.3)  # pixels


def test_each_pair_of_frames_of_each_clip_has_its_own_motion() -> None:
    world = textured(128)
    clips = torch.stack([torch.stack([world[20:84, x : x + 64] for x in xs]) for xs in ((20, 22, 26), (30, 30, 24))])
    found = camera_motion(clips, apart=1)[:, :, 0, 2] * 32
    torch.testing.assert_close(found, torch.tensor([[2.0, 4], [0, -6]]), atol=0.2, rtol=0)
    apart = camera_motion(clips, apart=2)[:, :, 0, 2] * 32
    torch.testing.assert_close(apart, torch.tensor([[6.0], [-6]]), atol=0.2, rtol=0)


@pytest.mark.parametrize(("name", "least", "most"), [("flipping_a_pancake.mkv", 0, 0.1), ("part_0.mp4", 0.9, 1)])
def test_a_real_camera_that_stands_still_is_left_alone_and_one_that_moves_is_not(
    clips: Path, name: str, least: float, most: float
) -> None:
    """Hands move before the first; the second, at a pool, never rests."""
    frames = torch.from_numpy(read_frames(clips / name, range(0, 32, 2))).float().mean(dim=3)[None] / 255
    found = camera_motion(frames, apart=2)[0]
    moved = (found != torch.tensor([[1.0, 0, 0], [0, 1, 0]])).flatten(1).any(dim=1).float().mean()
    assert least <= moved <= most


@pytest.mark.parametrize(("camera", "times"), [("pan", 2), ("shake", 2), ("mixed", 2), ("zoom", 1.4)])
def test_more_kept_tokens_lie_on_what_moves_when_the_camera_does(camera: CameraMotion, times: float) -> None:
    """Twice as many, and nearly as many as there are; in the middle of a zoom nothing moves for ``rero`` either."""
    filmed = Filmed.by(camera, "cluttered", videos=8)
    found = filmed.share("residual", 0.1)
    assert found >= times * filmed.share("rero", 0.1)
    assert found > 0.7
    assert filmed.share("residual", 0.3) > 0.8 * filmed.best(0.3)


@pytest.mark.parametrize("camera", ["pan", "zoom", "shake", "mixed"])
def test_where_contrast_alone_tells_things_apart_as_many_lie_on_what_moves(camera: CameraMotion) -> None:
    filmed = Filmed.by(camera, "plain", videos=8)
    for ratio in (0.1, 0.3):
        assert filmed.share("residual", ratio) > filmed.share("rero", ratio) - 0.03


@pytest.mark.parametrize("scene", ["plain", "cluttered"])
def test_when_the_camera_stands_still_as_many_lie_on_what_moves(scene: SceneName) -> None:
    filmed = Filmed.by("still", scene, videos=16)
    for ratio in (0.1, 0.3):
        assert filmed.share("residual", ratio) == pytest.approx(filmed.share("rero", ratio), abs=0.001)


@pytest.mark.parametrize("distance", get_args(Distance))
def test_a_still_camera_leaves_every_distance_as_it_is(distance: Distance) -> None:
    embed = TubeletEmbed(ModelConfig(image_size=64, num_frames=8, patch_size=8, embed_dim=48, num_heads=3))
    clips = Filmed.by("still", "plain", videos=2).clips[:, :8, :48]  # six rows of eight
    clip = Clip.cut(embed, clips, distance)
    torch.testing.assert_close(residual.scores(clip), rero.scores(clip), rtol=1e-4, atol=1e-4)


def test_a_clip_of_one_step_has_nothing_to_compare() -> None:
    embed = TubeletEmbed(ModelConfig(image_size=32, num_frames=2, patch_size=8, embed_dim=48, num_heads=3))
    clip = Clip.cut(embed, torch.zeros(2, 2, 32, 32, 3, dtype=torch.uint8), "l2")
    assert torch.equal(residual.scores(clip), torch.zeros(2, 1, 16))


def test_what_comes_into_view_has_no_importance_of_its_own() -> None:
    """A pan by one tubelet to the right over a world that stands still: nothing changed but what came into view."""
    world = textured(128)[:64] * 40 + 128
    frames = torch.stack([world[:, 8 * (t // 2) :][:, :64] for t in range(8)])
    clips = frames.clamp(0, 255).byte()[None, ..., None].expand(-1, -1, -1, -1, 3)
    embed = TubeletEmbed(ModelConfig(image_size=64, num_frames=8, patch_size=8, embed_dim=48, num_heads=3))
    clip = Clip.cut(embed, clips, "l2")
    assert residual.scores(clip).max() < 0.2 * rero.scores(clip).median()
