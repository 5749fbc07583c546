"""Whole steps hidden."""

import torch
from torch import Tensor

from everest.model.masks.clip import Clip
from everest.model.select import split_at


def split(clip: Clip, visible: int, hidden: int) -> tuple[Tensor, Tensor]:
    """``visible`` and ``hidden`` are of whole steps."""
    B, S, N = clip.shape
    drawn = torch.rand(B, S, 1, device=clip.tubelets.device).argsort(dim=1)
    return split_at(drawn.argsort(dim=1).expand(B, S, N), visible, hidden)
