"""What depends on the size of clips or tubelets, made to fit where weights come from another size."""

import math
from typing import Any

from torch import Tensor, nn

from everest.model.positions import Grid, Positions
from everest.model.resample import resample_embedding, resample_pixels

#: Of published weights, whose files do not say it: 16 frames of 224 x 224 pixels, tubelets of 2 x 16 x 16.
_PUBLISHED = Grid(8, 14)


def fit_tubelets(state: dict[str, Tensor], wanted: dict[str, Any]) -> list[str]:
    """Resamples the embedding, and the decoder's pixels, of tubelets of another size. Returns what was done."""
    name = next((name for name in state if name.endswith("patch_embed.proj.weight") and name in wanted), None)
    if name is None:
        return []
    old, new = tuple(state[name].shape[2:]), tuple(wanted[name].shape[2:])
    if len(old) != 3 or old == new:
        return []
    state[name] = resample_embedding(state[name], new)
    for pixels in ("decoder.head.weight", "decoder.head.bias"):
        if pixels in state and len(state[pixels]) == 3 * math.prod(old):
            state[pixels] = resample_pixels(state[pixels], old, new)
    return [f"tubelets resampled from {' x '.join(map(str, old))} to {' x '.join(map(str, new))}"]


def is_origin(name: str) -> bool:
    """Whether a tensor of that name says which grid positions are stretched from."""
    return name.endswith("positions.origin")


def pop_origin(state: dict[str, Tensor]) -> Grid | None:
    """The grid that positions are stretched from, where a checkpoint of ours says one."""
    found = [state.pop(name) for name in [*state] if is_origin(name)]
    return Grid(*found[0].tolist()) if found else None


def fit_positions(model: nn.Module, origin: Grid | None) -> list[str]:
    """Stretches positions from the grid that weights learned on. Returns what was done, or why nothing was."""
    positions = [module for module in model.modules() if isinstance(module, Positions)]
    if not positions:
        return []
    grid = positions[0].grid
    if origin is None:
        if grid == _PUBLISHED:
            return []
        return [
            f"positions not stretched, but those of {grid}: no experiment.yaml or config.json beside the weights "
            "says which size of clips they learned on"
        ]
    for each in positions:
        each.stretch(origin)
    return [f"positions stretched from {origin} to {grid}"] if grid != origin else []
