"""Cells of 2 x 2 places, of which another one is taken from step to step (MAR)."""

import torch
from torch import Tensor

from everest.model.masks.clip import Clip


def scores(clip: Clip, chance: Tensor) -> Tensor:
    """Above all others the place that is a step's own, then those whose turn comes next; among equals by chance.

    (B, S, N); turns go clockwise from the top left.
    """
    _, S, N = clip.shape
    place = torch.arange(N, device=chance.device)
    lower, right = place // clip.columns % 2, place % clip.columns % 2
    clockwise = right + lower * (3 - 2 * right)
    turn = (clockwise - torch.arange(S, device=chance.device)[:, None]) % 4
    return chance - turn
