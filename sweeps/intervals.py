"""Means with intervals, by the bootstrap (Efron 1979): what a comparison of a few seeds can and cannot tell."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_DRAWS = 10_000


class Interval(NamedTuple):
    mean: float
    low: float  # 95 %, of the mean
    high: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Of the mean of values; resampled with a fixed seed, so that the same values give the same interval."""
    found = np.asarray(values, float)
    drawn = found[np.random.default_rng(0).integers(0, len(found), (_DRAWS, len(found)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(found.mean()), float(low), float(high))


def paired_interval(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Of the mean difference of pairs: the same seed in both."""
    return mean_interval([one - other for one, other in zip(values, others, strict=True)])
