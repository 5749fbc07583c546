"""Whole steps hidden."""

from torch import Tensor

from everest.model.masks.clip import Clip
from everest.model.select import split_at


def split(clip: Clip, visible: int, hidden: int) -> tuple[Tensor, Tensor]:
    """``visible`` and ``hidden`` are of whole steps."""
    B, S, N = clip.shape
    drawn = clip.uniform(B, S, 1).argsort(dim=1)
    return split_at(drawn.argsort(dim=1).expand(B, S, N), visible, hidden)
