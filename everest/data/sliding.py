"""Clips whose rows or columns slide along themselves, each by its own distance: translated, sheared."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from everest.data.interpolation import BITS, STEPS, before, weights


def along_rows(clip: Tensor, distances: np.ndarray, bicubic: bool, fill: tuple[int, ...]) -> Tensor:
    """The pixel at x in row y comes from ``x + distances[y]``; what comes from outside is of the colour ``fill``."""
    T, H, W, _ = clip.shape
    slid = np.empty((T, H, W * 3), np.uint8)
    _slide(clip.numpy().reshape(slid.shape), slid, distances, 3, bicubic)
    _fill(slid, distances, 3, np.tile(fill, (H, W)))
    return torch.from_numpy(slid).view(clip.shape)


def along_columns(clip: Tensor, distances: np.ndarray, bicubic: bool, fill: tuple[int, ...]) -> Tensor:
    """The pixel at y in column x comes from ``y + distances[x]``."""
    T, H, W, _ = clip.shape
    slid, distances = np.empty((T, H, W * 3), np.uint8), distances.repeat(3)
    _slide(clip.numpy().reshape(slid.shape).swapaxes(1, 2), slid.swapaxes(1, 2), distances, 1, bicubic)
    _fill(slid.swapaxes(1, 2), distances, 1, np.tile(fill, (H, W)).T)
    return torch.from_numpy(slid).view(clip.shape)


def _slide(frames: np.ndarray, slid: np.ndarray, distances: np.ndarray, pixel: int, bicubic: bool) -> None:
    """Both are (T, lines, values along a line), ``pixel`` of which are a pixel; its neighbour is as far away."""
    length = frames.shape[2]
    whole, steps = np.divmod(np.rint(distances * STEPS).astype(int), STEPS)
    parts = np.full((1, 1), STEPS, np.int16)
    if steps.any():
        whole, parts = whole - before(bicubic), np.ascontiguousarray(weights(bicubic)[steps].T)
    near = torch.from_numpy(_near(frames, whole, pixel, (len(parts) - 1) * pixel))
    first, *others = torch.from_numpy(parts)[..., None]
    total = torch.empty_like(near[0, :, :length])
    for source, out in zip(near, slid, strict=True):
        torch.mul(source[:, :length], first, out=total)
        for number, part in enumerate(others, start=1):
            begin = number * pixel
            total.addcmul_(source[:, begin : begin + length], part)
        np.right_shift(total.numpy(), BITS, out=total.numpy())
        out[:] = total.clamp_(0, 255).numpy()


def _near(frames: np.ndarray, shifts: np.ndarray, pixel: int, more: int) -> np.ndarray:
    """Each line from its shift on, in pixels, ``more`` values longer: int16. Beyond the border is as the border."""
    T, lines, length = frames.shape
    near = np.empty_like(frames, np.int16, shape=(T, lines, length + more))
    for run, shift in _runs(shifts * pixel):
        begin = min(max(-shift, 0), length + more)
        end = min(max(length - shift, begin), length + more)
        near[:, run, begin:end] = frames[:, run, begin + shift : end + shift]
        for value in range(pixel):
            near[:, run, value:begin:pixel] = frames[:, run, value, None]
            near[:, run, end + value :: pixel] = frames[:, run, length - pixel + value, None]
    return near


def _fill(slid: np.ndarray, distances: np.ndarray, pixel: int, empty: np.ndarray) -> None:
    """With the same place of ``empty``, what comes from outside: a pixel's middle is at 0.5."""
    length = slid.shape[2]
    for run, first in _runs(np.ceil(-0.5 - distances).astype(int) * pixel):
        for outside in (slice(max(first, 0)), slice(max(length + first, 0), None)):
            slid[:, run, outside] = empty[run, outside]


def _runs(values: np.ndarray) -> Iterator[tuple[slice, int]]:
    """Where equal ones follow each other, and their value."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for begin, end in pairwise(edges):
        yield slice(begin, end), int(values[begin])
