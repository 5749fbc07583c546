"""Methods of choosing tokens by name; ``everest/masks.py`` has a row for each file here."""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

from everest.masks import METHODS
from everest.model.masks.clip import Clip

#: Scores of all tokens, (B, S, N), the best highest; ``chance`` (B, S, N) is uniform.
Ranking = Callable[[Clip, Tensor | None], Tensor]
#: Visible and hidden tokens of so many each: (B, V) and (B, M), both ascending.
Splitting = Callable[[Clip, int, int], tuple[Tensor, Tensor]]


_MODULES = {name: import_module(f"{__name__}.{name}") for name in METHODS}  # here, since no graph may import


def ranking(name: str) -> Ranking:
    """Of a method that ranks."""
    found: Ranking = _MODULES[name].scores
    return found


def splitting(name: str) -> Splitting:
    """Of a method that says itself what is visible and what is hidden."""
    found: Splitting = _MODULES[name].split
    return found
