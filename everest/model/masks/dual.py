"""Two masks: the encoder sees tubes, the decoder reconstructs running cells of what is left (VideoMAE V2)."""

from torch import Tensor

from everest.model.masks import running_cell, tube
from everest.model.masks.clip import Clip


def split(clip: Clip, visible: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Whole tubes visible; of the other tokens those whose turn is first."""
    _, S, N = clip.shape
    seen, rest = tube.split(clip, visible, S * N - visible)
    turns = running_cell.scores(clip, clip.chance()).flatten(1).gather(1, rest)
    first = turns.argsort(dim=1, descending=True, stable=True)[:, :hidden]
    return seen, rest.gather(1, first).sort(dim=1).values
