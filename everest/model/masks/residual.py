"""Tokens that move against the camera: what changes once the camera's own motion is taken back."""

import torch
from torch import Tensor

from everest.model.masks.clip import Clip
from everest.model.motion import camera_motion, moved
from everest.model.redundancy import clip_importance, for_all_steps


@torch.no_grad()
def scores(clip: Clip, _: Tensor | None = None) -> Tensor:
    """Distance of each token's embedding to that of what the camera saw there one step before, (B, S, N).

    What was out of sight one step before changes nothing. Where the camera stands still, these are ``rero``'s scores.
    """
    B, S, N = clip.shape
    if S == 1:
        return for_all_steps(torch.zeros(B, 0, N, device=clip.tubelets.device))
    with torch.autocast(clip.tubelets.device.type, enabled=False):
        tubelets = clip.embed.pixels.normalized(clip.tubelets).float()
        frames = _frames(clip, tubelets)
        after, before = frames[:, 1:].flatten(0, 2), frames[:, :-1].flatten(0, 2)
        motion = camera_motion(frames.mean(dim=3).flatten(1, 2), apart=frames.shape[2])
        seen, inside = moved(before, motion.flatten(0, 1))
        seen = torch.where(inside[:, None], seen, after)
        pairs = torch.stack([_tubelets(clip, seen), tubelets[:, 1:].flatten(0, 1)], dim=1)
    changes = clip_importance(clip.embed, pairs, clip.distance)[:, 1]
    return for_all_steps(changes.unflatten(0, (B, S - 1)))


def _frames(clip: Clip, tubelets: Tensor) -> Tensor:
    """(B, S, N, P) -> (B, S, t, 3, H, W)"""
    t, p = clip.embed.tubelet_size, clip.embed.patch_size
    pixels = tubelets.unflatten(3, (t, p, p, 3)).unflatten(2, (clip.rows, clip.columns))
    return pixels.permute(0, 1, 4, 7, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5)


def _tubelets(clip: Clip, frames: Tensor) -> Tensor:
    """(n * t, 3, H, W) -> (n, N, P)"""
    t, p = clip.embed.tubelet_size, clip.embed.patch_size
    pixels = frames.unflatten(3, (clip.columns, p)).unflatten(2, (clip.rows, p)).unflatten(0, (-1, t))
    return pixels.permute(0, 3, 5, 1, 4, 6, 2).flatten(3).flatten(1, 2)
