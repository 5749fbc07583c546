"""What pixels around a place between them make up its value, in whole numbers."""

from functools import cache

import numpy as np

#: A pixel is cut into so many steps: 64, so that no weighted sum of bytes is too large for 16 bits.
BITS = 6
STEPS = 1 << BITS


@cache
def weights(bicubic: bool) -> np.ndarray:
    """PIL's, for a place that is so many steps beyond a pixel: int16 (STEPS, 2 or 4), rows that sum up to STEPS.

    They are of that pixel and the next one or, bicubic, of one more before and one more after these.
    """
    t = np.arange(STEPS)[:, None] / STEPS
    curve = np.array([[0, 1, 0, 0], [-1, 0, 1, 0], [2, -2, 1, -1], [-1, 1, -1, 1]] if bicubic else [[1, 0], [-1, 1]])
    found = np.rint(t ** np.arange(len(curve)) @ curve * STEPS).astype(np.int16)
    found[:, before(bicubic)] += STEPS - found.sum(1, dtype=np.int16)
    return found


def before(bicubic: bool) -> int:
    """How many pixels before the nearest one that is not beyond a place make up its value too."""
    return int(bicubic)
