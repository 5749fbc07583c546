"""The same places hidden in all steps (VideoMAE)."""

from torch import Tensor

from everest.model.masks.clip import Clip
from everest.model.select import split_at


def split(clip: Clip, visible: int, hidden: int) -> tuple[Tensor, Tensor]:
    """``visible`` and ``hidden`` are of whole tubes."""
    B, S, N = clip.shape
    drawn = clip.uniform(B, 1, N).argsort(dim=2)
    return split_at(drawn.argsort(dim=2).expand(B, S, N), visible, hidden)
