"""The tokens that change least: the control that ought to be worst (EVEREST, ascending order)."""

from torch import Tensor

from everest.model.masks import rero
from everest.model.masks.clip import Clip


def scores(clip: Clip, _: Tensor | None = None) -> Tensor:
    """(B, S, N)"""
    return -rero.scores(clip)
