"""How much each token changes over time (EVEREST, section 3.2, equation 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from everest.config import Distance
from everest.model.embed import TubeletEmbed


def token_importance(embeddings: Tensor, distance: Distance = "l2") -> Tensor:
    """Distance of each token's embedding to that of the same place one step before.

    (B, S, N, D) -> (B, S, N), detached, float32. The first step has no predecessor and takes the
    second's importance; a clip of a single step has none at all, and all its tokens weigh the same.
    """
    current = embeddings.detach().float()
    before, after = current[:, :-1], current[:, 1:]
    if distance == "cosine":
        return for_all_steps(1 - F.cosine_similarity(after, before, dim=-1))
    if distance == "cka":
        return for_all_steps(1 - _correlation(after, before).square())
    return for_all_steps(_length(after - before, distance))


def clip_importance(embed: TubeletEmbed, tubelets: Tensor, distance: Distance) -> Tensor:
    """Importance of every tubelet of a clip, before positions are added: (B, S, N, P) -> (B, S, N)."""
    if distance in {"cosine", "cka"}:  # those that ask for more than what changes
        return token_importance(embed.exact(tubelets), distance)
    return for_all_steps(_length(embed.changes(tubelets), distance))


def _length(change: Tensor, distance: Distance) -> Tensor:
    match distance:
        case "l2":
            return torch.linalg.vector_norm(change, dim=-1)
        case "l1":
            return torch.linalg.vector_norm(change, ord=1, dim=-1)
        case _:
            raise ValueError(f"distance {distance!r} is not l2, l1, cosine or cka")


def _correlation(after: Tensor, before: Tensor) -> Tensor:
    """Its square is linear CKA of two embeddings, taken as D samples of one feature each (Kornblith et al. 2019)."""
    after, before = (each - each.mean(dim=-1, keepdim=True) for each in (after, before))
    return F.cosine_similarity(after, before, dim=-1)


def for_all_steps(change: Tensor) -> Tensor:
    """What changes from step to step, and the first step's as the second's: (B, S-1, N) -> (B, S, N)."""
    B, others, N = change.shape
    return torch.cat([change[:, :1], change], dim=1) if others else change.new_zeros(B, 1, N)
