"""Clips whose pixels are weighted sums of others, the same ones in all frames: turned, blurred, sharpened.

To turn and to blur, pixels lie as rows of a table, (H*W, 3*T), so that one look-up of a pixel fetches it from all
frames. Which rows make up a pixel and their weights are (pixels, n): a sparse matrix, which ``embedding_bag``
multiplies with the table. It goes by bands of the picture that stay in the processor's cache.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everest.data.interpolation import BITS, STEPS, before, weights

_BAND = 6144  # pixels

#: Sums are made larger by this share before they are rounded down, as 63.999… may stand for 64.
A_HAIR = 1e-5


def turned(clip: Tensor, degrees: float, bicubic: bool, fill: tuple[int, ...]) -> Tensor:
    """Counterclockwise, about the middle, as PIL does it. What comes from outside is of the colour ``fill``."""
    _, H, W, _ = clip.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = torch.arange(H)[:, None] + 0.5 - H / 2, torch.arange(W) + 0.5 - W / 2
    left, right_of, beside = _places(cos * x - sin * y, W)
    top, below, above = _places(sin * x + cos * y, H)
    padded = np.pad(clip.numpy(), [(0, 0), (2, 6), (2, 2), (0, 0)], mode="edge")
    padded[:, -4:] = fill
    first = ((top + 2) * (W + 4) + left + 2).masked_fill_(beside | above, (H + 5) * (W + 4) + 1)
    around = torch.arange(4 if bicubic else 2, dtype=torch.int32) - before(bicubic)
    steps = (around[:, None] * (W + 4) + around).view(-1)
    table, kinds = _table(padded), below * STEPS + right_of

    def band(pixels: slice) -> Tensor:
        return _summed(table, first[pixels, None] + steps, _weights(bicubic).index_select(0, kinds[pixels]))

    return _by_bands(band, clip.shape)


def _places(from_middle: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of distances from the middle: the pixel before each, the steps beyond it, and whether it is outside."""
    steps = ((from_middle.view(-1) + (length - 1) / 2) * STEPS).round_().int()
    outside = (steps < -STEPS // 2) | (steps >= length * STEPS - STEPS // 2)
    return steps >> BITS, steps & (STEPS - 1), outside


@cache
def _weights(bicubic: bool) -> Tensor:
    """Of the pixels around, by rows: (STEPS down times STEPS across, 4 or 16)."""
    line = torch.from_numpy(weights(bicubic)).float() / STEPS
    return torch.einsum("di,aj->daij", line, line).reshape(STEPS * STEPS, -1) * (1 + A_HAIR)


def sharpened(clip: Tensor, factor: float) -> Tensor:
    """From smoothed by PIL's 3 x 3 filter (0) over the clip (1) to sharper than it is. The border stays."""
    T, H, W, _ = clip.shape
    sharp = clip.clone()
    for frame in sharp.view(T, H, W * 3):
        values = frame.short()
        rows = (values[:-2] + values[2:]).add_(values[1:-1])
        around = (rows[:, :-6] + rows[:, 6:]).add_(rows[:, 3:-3])
        middle = values[1:-1, 3:-3]
        softer = around.sub_(middle, alpha=9)  # 13 times what smoothing adds
        mixed = torch.mul(middle, 1 + A_HAIR).add_(softer, alpha=(1 - factor) / 13)
        frame.numpy()[1:-1, 3:-3] = mixed.clamp_(0, 255).numpy()
    return sharp


def blurred(clip: Tensor, radius: float) -> Tensor:
    """By a Gaussian of that standard deviation, in pixels; what is beyond the border is as the border."""
    _, H, W, _ = clip.shape
    steps = torch.arange(-math.ceil(3 * radius), math.ceil(3 * radius) + 1)
    parts = F.softmax(-0.5 * (steps / radius) ** 2, 0) * (1 + A_HAIR)
    y, x = torch.arange(H)[:, None, None], torch.arange(W)[:, None]
    across = (y * W + (x + steps).clamp(0, W - 1)).view(H * W, -1)
    down = ((y + steps).clamp(0, H - 1) * W + x).view(H * W, -1)
    for places in (across, down):
        clip = _by_bands(_same_sum(_table(clip.numpy()), places, parts), clip.shape)
    return clip


def _same_sum(table: Tensor, places: Tensor, parts: Tensor) -> Callable[[slice], Tensor]:
    def band(pixels: slice) -> Tensor:
        around = places[pixels]
        return _summed(table, around, parts.expand_as(around)).add_(0.5)

    return band


def _table(clip: np.ndarray) -> Tensor:
    T, H, W, C = clip.shape
    values, table = clip.reshape(T, -1), np.empty((H * W * C, T), np.float32)
    for first in range(0, len(table), _BAND):
        band = slice(first, first + _BAND)
        table[band] = np.ascontiguousarray(values[:, band].T)
    return torch.from_numpy(table).view(H * W, -1)


def _summed(table: Tensor, places: Tensor, parts: Tensor) -> Tensor:
    return F.embedding_bag(places, table, mode="sum", per_sample_weights=parts)


def _by_bands(band: Callable[[slice], Tensor], shape: torch.Size) -> Tensor:
    """A clip of that shape; ``band`` makes the rows of its table for some of the pixels."""
    T, H, W, C = shape
    clip = np.empty((T, H * W * C), np.uint8)
    for first in range(0, H * W, _BAND):
        values = band(slice(first, first + _BAND)).clamp_(0, 255).numpy()
        clip[:, first * C : (first + _BAND) * C] = values.astype(np.uint8).reshape(-1, T).T  # rounded down, as by PIL
    return torch.from_numpy(clip).view(shape)
