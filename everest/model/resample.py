"""Weights of another size of tubelets, scaled such that they do here what they did there."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_embedding(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """(D, 3, t, y, x) -> (D, 3, *size): makes of scaled tubelets what it made of those as they were.

    Exactly so where tubelets grow, as nearly as possible otherwise (FlexiViT, Beyer et al. 2023, section 3.4).
    """
    return _along_axes(kernel, 2, size, lambda old, new: torch.linalg.pinv(_scaling(old, new)).T)


def resample_pixels(rows: Tensor, old: Sequence[int], size: Sequence[int]) -> Tensor:
    """(t*y*x*3, ...), in the order of tubelets, -> the same of tubelets of another size, scaled as pictures are."""
    return _along_axes(rows.unflatten(0, (*old, 3)), 0, size, _scaling).flatten(0, 3)


def _scaling(old: int, new: int) -> Tensor:
    """(new, old): the weights by which a row of ``old`` pixels becomes one of ``new``, bicubic."""
    rows = torch.eye(old, dtype=torch.float64)[None, None]
    return F.interpolate(rows, (new, old), mode="bicubic", antialias=True)[0, 0]


def _along_axes(values: Tensor, first: int, size: Sequence[int], matrix: Callable[[int, int], Tensor]) -> Tensor:
    """Multiplies with (new, old) along three axes from ``first`` on, in float64."""
    result = values.double()
    for axis, new in enumerate(size, first):
        weights = matrix(result.shape[axis], new).to(result.device)
        result = torch.tensordot(result, weights, dims=([axis], [1])).movedim(-1, axis)
    return result.to(values.dtype).contiguous()
