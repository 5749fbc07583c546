"""Clips whose pixels are weighted sums of others, the same ones in all frames: moved, blurred, sharpened.

Pixels lie as rows of a table, (H*W, 3*T), so that one look-up of a pixel fetches it from all frames. Which rows make
up a pixel and their weights are (pixels, n): a sparse matrix, which ``embedding_bag`` multiplies with the table.
It goes by bands of the picture that stay in the processor's cache.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_BAND = 6144  # pixels

#: Sums are made larger by this share before they are rounded down, as 63.999… may stand for 64.
A_HAIR = 1e-5

#: From t, how far a position is beyond the pixel before it, as 1, t, t^2 …, to the weights of the pixels around it.
_STILL = torch.ones(1, 1)
_BILINEAR = torch.tensor([[1.0, 0], [-1, 1]])
_BICUBIC = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 1, 0], [2, -2, 1, -1], [-1, 1, -1, 1]])  # PIL's


def affine(clip: Tensor, matrix: tuple[float, ...], bicubic: bool, fill: tuple[int, ...]) -> Tensor:
    """What PIL does to each frame with ``Transform.AFFINE``: the pixel at (x, y) comes from (ax + by + c, dx + ey + f).

    A pixel's middle is at 0.5. What comes from outside is of the colour ``fill``.
    """
    _, H, W, _ = clip.shape
    a, b, c, d, e, f = matrix
    curve = _BICUBIC if bicubic else _BILINEAR
    if (a, b, d, e) == (1, 0, 0, 1):
        return _shifted(clip, c, f, curve, fill)
    along_x = _STILL if (a, b) == (1, 0) and float(c).is_integer() else curve
    along_y = _STILL if (d, e) == (0, 1) and float(f).is_integer() else curve
    down, across = along_y.repeat_interleave(along_x.shape[1], 1), along_x.repeat(1, along_y.shape[1])
    y, x = torch.arange(H)[:, None] + 0.5, torch.arange(W) + 0.5
    from_x, from_y = (a * x + b * y + c).view(-1), (d * x + e * y + f).view(-1)
    outside = (from_x < 0) | (from_x >= W) | (from_y < 0) | (from_y >= H)
    column, row = from_x.sub_(0.5).clamp_(-0.5, W - 0.5), from_y.sub_(0.5).clamp_(-0.5, H - 0.5)
    left, top = column.floor(), row.floor()
    powers_x, powers_y = _powers(column - left, len(along_x)), _powers(row - top, len(along_y))
    first = ((top + 2) * (W + 4) + left + 2).int()
    first[outside] = (H + 5) * (W + 4) + 1
    steps = (_around(along_y)[:, None] * (W + 4) + _around(along_x)).view(-1).int()
    padded = np.pad(clip.numpy(), [(0, 0), (2, 6), (2, 2), (0, 0)], mode="edge")
    padded[:, -4:] = fill
    table = _table(padded)

    def band(pixels: slice) -> Tensor:
        weights = (powers_y[:, pixels].T @ down).mul_(powers_x[:, pixels].T @ across)
        return _summed(table, first[pixels, None] + steps, weights)

    return _by_bands(band, clip.shape)


def _shifted(clip: Tensor, x: float, y: float, curve: Tensor, fill: tuple[int, ...]) -> Tensor:
    """The pixel at (0, 0) comes from (x, y), and all others from as far: sums of whole frames, shifted."""
    T, H, W, _ = clip.shape
    left, right = (min(max(math.ceil(edge - x - 0.5), 0), W) for edge in (0, W))  # of what comes from inside
    top, bottom = (min(max(math.ceil(edge - y - 0.5), 0), H) for edge in (0, H))
    padded = torch.from_numpy(np.pad(clip.numpy(), [(0, 0), (2, 2), (2, 2), (0, 0)], mode="edge"))
    changed = torch.tensor(fill, dtype=torch.uint8).repeat(W).repeat(T, H, 1).view(clip.shape)  # by rows: faster
    for frame, out in zip(padded, changed.numpy(), strict=True):
        values, total = frame.float(), torch.zeros(bottom - top, right - left, 3)
        for down, below in _shifts(y, curve):
            for across, beside in _shifts(x, curve):
                part = values[top + 2 + down : bottom + 2 + down, left + 2 + across : right + 2 + across]
                total.add_(part, alpha=below * beside * (1 + A_HAIR))
        out[top:bottom, left:right] = total.clamp_(0, 255).numpy()
    return changed


def _shifts(distance: float, curve: Tensor) -> list[tuple[int, float]]:
    """The pixels around one that comes from so far away, and their weights."""
    whole = math.floor(distance)
    if distance == whole:
        return [(whole, 1.0)]
    weights = _powers(torch.tensor([distance - whole]), len(curve)).T @ curve
    return [(whole + step, weight) for step, weight in zip(_around(curve).tolist(), weights[0].tolist(), strict=True)]


def _around(curve: Tensor) -> Tensor:
    count = curve.shape[1]
    return torch.arange(count) - (count - 1) // 2


def _powers(t: Tensor, count: int) -> Tensor:
    return torch.stack([t**power for power in range(count)])


def sharpened(clip: Tensor, factor: float) -> Tensor:
    """From smoothed by PIL's 3 x 3 filter (0) over the clip (1) to sharper than it is. The border stays."""
    _, H, W, _ = clip.shape
    itself = F.one_hot(torch.tensor(4), 9).float()
    weights = torch.lerp((1 + 4 * itself) / 13, itself, factor)
    border = torch.ones(H, W, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    steps = (torch.arange(-1, 2)[:, None] * W + torch.arange(-1, 2)).view(-1)
    places, all_border = torch.arange(H * W), border.view(-1)
    table = _table(clip.numpy())

    def band(pixels: slice) -> Tensor:
        around = (places[pixels, None] + steps).clamp_(0, H * W - 1)
        return _summed(table, around, torch.where(all_border[pixels, None], itself, weights))

    return _by_bands(band, clip.shape)


def blurred(clip: Tensor, radius: float) -> Tensor:
    """By a Gaussian of that standard deviation, in pixels; what is beyond the border is as the border."""
    _, H, W, _ = clip.shape
    steps = torch.arange(-math.ceil(3 * radius), math.ceil(3 * radius) + 1)
    weights = F.softmax(-0.5 * (steps / radius) ** 2, 0)
    y, x = torch.arange(H)[:, None, None], torch.arange(W)[:, None]
    across = (y * W + (x + steps).clamp(0, W - 1)).view(H * W, -1)
    down = ((y + steps).clamp(0, H - 1) * W + x).view(H * W, -1)
    for places in (across, down):
        clip = _by_bands(_same_sum(_table(clip.numpy()), places, weights), clip.shape)
    return clip


def _same_sum(table: Tensor, places: Tensor, weights: Tensor) -> Callable[[slice], Tensor]:
    def band(pixels: slice) -> Tensor:
        around = places[pixels]
        return _summed(table, around, weights.expand_as(around)).add_(0.5)

    return band


def _table(clip: np.ndarray) -> Tensor:
    T, H, W, C = clip.shape
    values, table = clip.reshape(T, -1), np.empty((H * W * C, T), np.float32)
    for first in range(0, len(table), _BAND):
        band = slice(first, first + _BAND)
        table[band] = np.ascontiguousarray(values[:, band].T)
    return torch.from_numpy(table).view(H * W, -1)


def _summed(table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(places, table, mode="sum", per_sample_weights=weights * (1 + A_HAIR))


def _by_bands(band: Callable[[slice], Tensor], shape: torch.Size) -> Tensor:
    """A clip of that shape; ``band`` makes the rows of its table for some of the pixels."""
    T, H, W, C = shape
    clip = np.empty((T, H * W * C), np.uint8)
    for first in range(0, H * W, _BAND):
        values = band(slice(first, first + _BAND)).clamp_(0, 255).numpy()
        clip[:, first * C : (first + _BAND) * C] = values.astype(np.uint8).reshape(-1, T).T  # rounded down, as by PIL
    return torch.from_numpy(clip).view(shape)
