"""A decoded frame as people see it: right way up, pixels square, in RGB, scaled."""

from typing import NamedTuple, Self

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream


class Shape(NamedTuple):
    """How large a video is when its pixels are square, and by how much it is turned, counterclockwise."""

    width: int
    height: int
    quarter_turns: int

    @classmethod
    def of(cls, stream: VideoStream, frame: VideoFrame) -> Self:
        aspect = stream.sample_aspect_ratio or 1
        return cls(max(1, round(frame.width * aspect)), frame.height, round(frame.rotation / 90) % 4)

    def seen(self) -> tuple[int, int]:
        """Height and width as people see it."""
        return (self.width, self.height) if self.quarter_turns % 2 else (self.height, self.width)

    def scaled(self, short_side: int) -> Self:
        scale = short_side / min(self.width, self.height)
        width, height = (max(short_side, round(side * scale)) for side in (self.width, self.height))
        return self._replace(width=width, height=height)


class Painter:
    """Makes pictures of the frames of one video, all of one size: uint8 (H, W, 3)."""

    def __init__(self, shape: Shape, short_side: int | None) -> None:
        self.shape = shape.scaled(short_side) if short_side else shape
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        width, height, turns = self.shape
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
        return np.rot90(rgb.to_ndarray(), turns)
