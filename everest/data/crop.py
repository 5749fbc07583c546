"""A part of a picture."""

from typing import NamedTuple


class Box(NamedTuple):
    """A part of a picture, in pixels from the upper left."""

    left: int
    top: int
    width: int
    height: int


class Crop(NamedTuple):
    """A part of a picture, as shares (0 … 1) of its width and height, from the upper left."""

    left: float
    top: float
    width: float
    height: float

    def box(self, height: int, width: int) -> Box:
        """Of a picture of that size: at least one pixel, all of it inside."""
        tall, wide = max(1, round(self.height * height)), max(1, round(self.width * width))
        return Box(
            min(round(self.left * width), width - wide), min(round(self.top * height), height - tall), wide, tall
        )
