"""A decoded frame as people see it: right way up, pixels square, in RGB, scaled; all of it or parts."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, Self

import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from everest.data.crop import Box, Crop

#: From a frame to pictures of it, uint8 (H, W, 3) each.
Paint = Callable[[VideoFrame], list[np.ndarray]]


class Turn(NamedTuple):
    """What is done to a stored picture to show it, in this order."""

    transposed: bool = False
    mirrored: bool = False  # left becomes right
    upside_down: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Self:
        """By quarter turns, as near as they come."""
        x_of_x, y_of_x, x_of_y, y_of_y = _display_matrix(frame)
        if abs(y_of_x) > abs(x_of_x):
            return cls(True, x_of_y < 0, y_of_x < 0)
        return cls(False, x_of_x < 0, y_of_y < 0)

    @property
    def in_a_mirror(self) -> bool:
        """No rotation does it."""
        return self.transposed ^ self.mirrored ^ self.upside_down

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]

    def stored(self, crop: Crop, height: int, width: int) -> Box:
        """The part of a stored picture of that size that is shown as ``crop``."""
        shown_height, shown_width = (width, height) if self.transposed else (height, width)
        left, top, wide, tall = crop.box(shown_height, shown_width)
        if self.upside_down:
            top = shown_height - top - tall
        if self.mirrored:
            left = shown_width - left - wide
        return Box(top, left, tall, wide) if self.transposed else Box(left, top, wide, tall)


def _display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    """Of what is stored at (x, y): how much x and y give to where it is shown."""
    try:
        beside: Any = frame.side_data
        matrix = memoryview(beside["DISPLAYMATRIX"])
    except KeyError:
        return 1, 0, 0, 1
    except ValueError:  # beside it is something that this PyAV has no name for
        turn = np.radians(frame.rotation)
        return np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    return a, b, c, d


class Shape(NamedTuple):
    """How large a video is when its pixels are square, and how it is turned then."""

    width: int
    height: int
    turn: Turn

    @classmethod
    def of(cls, stream: VideoStream, frame: VideoFrame) -> Self:
        return cls(_square(frame.width, stream), frame.height, Turn.of(frame))

    @classmethod
    def promised(cls, stream: VideoStream) -> Self:
        """Before a frame is decoded, which alone can tell that it is turned."""
        return cls(_square(stream.codec_context.width, stream), stream.codec_context.height, Turn())

    def seen(self) -> tuple[int, int]:
        """Height and width as people see it."""
        return (self.width, self.height) if self.turn.transposed else (self.height, self.width)

    def upright(self) -> Self:
        """Of pictures that are turned already."""
        height, width = self.seen()
        return self._replace(width=width, height=height, turn=Turn())

    def scaled(self, short_side: int) -> Self:
        scale = short_side / min(self.width, self.height)
        width, height = (max(short_side, round(side * scale)) for side in (self.width, self.height))
        return self._replace(width=width, height=height)


def _square(width: int, stream: VideoStream) -> int:
    return max(1, round(width * (stream.sample_aspect_ratio or 1)))


class Painter:
    """Makes pictures of the frames of one video, all of one size."""

    def __init__(self, shape: Shape, short_side: int | None) -> None:
        self.shape = shape.scaled(short_side) if short_side else shape
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> list[np.ndarray]:
        width, height, turn = self.shape
        return [turn(_rgb(self._reformatter, frame, width, height))]


class Cutter:
    """Makes pictures of parts of the frames of one video, each scaled once to a square."""

    def __init__(self, turn: Turn, crops: list[Crop], size: int) -> None:
        self._parts = [_Part(turn, crop, size) for crop in crops]

    def __call__(self, frame: VideoFrame) -> list[np.ndarray]:
        return [part(frame) for part in self._parts]


class _Part:
    def __init__(self, turn: Turn, crop: Crop, size: int) -> None:
        self._turn, self._crop, self._size = turn, crop, size
        self._converter, self._reformatter = VideoReformatter(), VideoReformatter()
        self._graph: _Crop | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        box = self._turn.stored(self._crop, frame.height, frame.width)
        if not _can_begin_at(box.left, frame.format):
            frame = self._converter.reformat(frame, format="rgb24", threads=1)
        if self._graph is None or not self._graph.takes(frame):
            self._graph = _Crop(frame, box)
        part = self._graph.cut(frame)
        return self._turn(_rgb(self._reformatter, part, self._size, self._size))


class _Crop:
    """A part of a frame as a frame of its own, without copying."""

    def __init__(self, like: VideoFrame, box: Box) -> None:
        self._like = _kind(like)
        self._graph = Graph()
        self._source = self._graph.add_buffer(
            width=like.width, height=like.height, format=like.format, time_base=like.time_base or Fraction(1)
        )
        crop = self._graph.add("crop", f"{box.width}:{box.height}:{box.left}:{box.top}:exact=1")
        self._sink: FilterContext = self._graph.add("buffersink")
        self._graph.link_nodes(self._source, crop, self._sink).configure()

    def takes(self, frame: VideoFrame) -> bool:
        return _kind(frame) == self._like

    def cut(self, frame: VideoFrame) -> VideoFrame:
        self._source.push(frame)
        part = self._sink.pull()
        assert isinstance(part, VideoFrame)
        return part


def _can_begin_at(left: int, form: VideoFormat) -> bool:
    """FFmpeg's crop goes to half of a chroma sample of several bytes, where colour is kept in fewer columns."""
    single_bytes = len({c.plane for c in form.components}) == len(form.components) and form.components[0].bits <= 8
    return single_bytes or left % (8 // form.chroma_width(8)) == 0


def _kind(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def together(painted: list[list[np.ndarray]]) -> np.ndarray:
    """Of pictures of each frame: uint8 (pictures of each, frames, H, W, 3)."""
    each, size = len(painted[0]), painted[0][0].shape
    found = np.empty((each, len(painted), *size), np.uint8)
    for at, pictures in enumerate(painted):
        for kind, picture in enumerate(pictures):
            found[kind, at] = picture
    return found


def _rgb(reformatter: VideoReformatter, frame: VideoFrame, width: int, height: int) -> np.ndarray:
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
    return rgb.to_ndarray()
