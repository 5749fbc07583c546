"""Tokens whose pixels differ most from the step before: run-length tokenization (RLT) with a fixed number of tokens."""

from torch import Tensor

from everest.model.masks.clip import Clip
from everest.model.redundancy import for_all_steps


def scores(clip: Clip, _: Tensor | None = None) -> Tensor:
    """Mean absolute difference of pixels as they come, stored or normalised, (B, S, N)."""
    tubelets = clip.tubelets.float()
    return for_all_steps((tubelets[:, 1:] - tubelets[:, :-1]).abs().mean(dim=-1))
