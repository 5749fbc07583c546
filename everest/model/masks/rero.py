"""Redundancy-robust tokens: those whose embedding changes most (EVEREST, section 3.2)."""

from torch import Tensor

from everest.model.masks.clip import Clip
from everest.model.redundancy import clip_importance


def scores(clip: Clip, _: Tensor | None = None) -> Tensor:
    """(B, S, N)"""
    return clip_importance(clip.embed, clip.tubelets, clip.distance)
