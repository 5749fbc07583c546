"""Information-intensive frame selection: of a longer clip, the steps where most happens (EVEREST, section 3.3)."""

import torch
from torch import Generator, Tensor

from everest.config import FramesConfig, token_count
from everest.model.embed import TubeletEmbed
from everest.model.redundancy import clip_importance
from everest.model.select import keep_important, take


def count_kept(importance: Tensor, keep_ratio: float) -> Tensor:
    """How many of a clip's most important tokens lie in each step: (B, S, N) -> c (B, S)."""
    B, S, N = importance.shape
    kept = keep_important(importance, max(1, token_count(keep_ratio, S * N)))
    counts = torch.zeros(B, S, device=importance.device)
    return counts.scatter_add_(1, kept // N, torch.ones_like(kept, dtype=counts.dtype))


def choose_steps(counts_BS: Tensor, steps: int, generator: Generator | None) -> Tensor:
    """``steps`` of the S steps, without replacement, in temporal order: (B, tau).

    Drawn with probability c_i / sum(c), as an exponential race; without a generator (in evaluation)
    the largest c_i win, earlier steps first. Steps with no kept token come last of all, evenly drawn.
    """
    weights = counts_BS.float().clamp(min=1e-6)
    if generator is None:
        order = weights.argsort(dim=1, descending=True, stable=True)
    else:
        arrival = torch.empty_like(weights).exponential_(generator=generator) / weights
        order = arrival.argsort(dim=1)
    return order[:, :steps].sort(dim=1).values


def select_frames(
    embed: TubeletEmbed, clips: Tensor, frames: int, config: FramesConfig, generator: Generator | None
) -> Tensor:
    """Keeps the most informative ``frames`` of longer clips: uint8 (B, T', H, W, 3) -> (B, T, H, W, 3).

    Works on the clips' device and draws from ``generator``, which lives there too; None in evaluation.
    """
    B, long, H, W, _ = clips.shape
    tubelet = embed.tubelet_size
    importance = clip_importance(embed, embed.cut(clips), config.distance)
    steps = choose_steps(count_kept(importance, config.keep_ratio), frames // tubelet, generator)
    return take(clips.reshape(B, long // tubelet, -1), steps).reshape(B, frames, H, W, 3)
