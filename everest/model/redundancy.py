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
    if current.shape[1] == 1:
        return torch.zeros_like(current[..., 0])
    before, after = current[:, :-1], current[:, 1:]
    match distance:
        case "l2":
            change = torch.linalg.vector_norm(after - before, dim=-1)
        case "l1":
            change = torch.linalg.vector_norm(after - before, ord=1, dim=-1)
        case "cosine":
            change = 1 - F.cosine_similarity(after, before, dim=-1)
        case _:
            raise ValueError(f"distance {distance!r} is not l2, l1 or cosine")
    return torch.cat([change[:, :1], change], dim=1)


def clip_importance(embed: TubeletEmbed, tubelets: Tensor, distance: Distance) -> Tensor:
    """Importance of every tubelet of a clip, before positions are added: (B, S, N, P) -> (B, S, N)."""
    return token_importance(embed.exact(tubelets), distance)
