"""Which frames of a video make a clip. Pure functions: where to look is decided by the caller.

A video shorter than the clip repeats its last frame.
"""

import numpy as np


def dense(total: int, count: int, rate: int, where: float, spread: bool = False) -> np.ndarray:
    """``count`` frames from a window of ``count * rate``, which starts at ``where`` (0 … 1) of what is possible.

    Every ``rate``-th frame, as for pre-training; or with ``spread`` evenly over the whole window, both
    ends included, as for fine-tuning (16 frames over 64: a step of about 4.27).
    """
    window = count * rate
    start = int(where * max(0, total - window) + 0.5)
    offsets = np.linspace(0, window, count).astype(int) if spread else np.arange(count) * rate
    return np.minimum(start + offsets, min(start + window, total) - 1)


def dense_view(total: int, count: int, rate: int, number: int, views: int) -> np.ndarray:
    """View ``number`` of ``views`` in a dense test (Tong et al., VideoMAE): of every ``rate``-th frame of the video,
    ``count`` in a row, begun at evenly spaced places from the first to the last possible; one view in the middle.
    """
    sampled = np.arange(0, total, rate)
    last = max(0, len(sampled) - count)
    start = number * last // (views - 1) if views > 1 else last // 2
    return sampled[np.minimum(start + np.arange(count), len(sampled) - 1)]


def segments(total: int, count: int, where: np.ndarray | float) -> np.ndarray:
    """One frame from each of ``count`` equal parts of the video, at ``where`` (0 … 1, one or one per part) of it."""
    return np.minimum(((np.arange(count) + where) * total / count).astype(int), total - 1)
