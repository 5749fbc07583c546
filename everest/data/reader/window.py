"""A part of a video, by the times at which its frames are shown."""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import NamedTuple

from everest.data.reader.errors import DecodeError

_exact = partial(round, ndigits=9)  # a nanosecond is nothing


class Window(NamedTuple):
    """Seconds from the first frame that is shown: from ``start`` on, and before ``end``; None for the end of it."""

    start: float = 0.0
    end: float | None = None

    @property
    def whole(self) -> bool:
        return self.start <= 0 and self.end is None

    def __contains__(self, seconds: object) -> bool:
        assert isinstance(seconds, float)
        return _exact(self.start) <= _exact(seconds) and (self.end is None or _exact(seconds) < _exact(self.end))

    def numbers(self, times: Sequence[int], time_base: Fraction) -> range:
        """Of the frames inside, of rising times. Raises DecodeError where there are none."""
        if self.whole:
            return range(len(times))

        def seconds(time: int) -> float:
            return _exact(float((time - times[0]) * time_base))

        first = bisect_left(times, _exact(self.start), key=seconds)
        after = len(times) if self.end is None else bisect_left(times, _exact(self.end), key=seconds)
        if first >= after:
            raise self.empty(seconds(times[-1]), len(times))
        return range(first, after)

    def empty(self, last: float, total: int) -> DecodeError:
        """For a video of ``total`` frames, the last of them shown at ``last``."""
        where = f"from {self.start:g} s on" if self.end is None else f"between {self.start:g} and {self.end:g} s"
        return DecodeError(f"no frame {where}; the video has {last * total / max(1, total - 1):.4g} s")


WHOLE = Window()
