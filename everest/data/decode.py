"""Frames from video files, by decord: one thread, straight to the wanted size, the reader gone afterwards."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np
import torch
from torch import Tensor

decord.logging.set_level(decord.logging.QUIET)
logging.getLogger("libav").setLevel(logging.CRITICAL)


_WHERE = re.compile(r".*\.cc:\d+: ")  # decord says first which line of its own source stumbled


class DecodeError(Exception):
    """A video that cannot be read; the message is the reason, in one line."""


def decode(path: Path, short_side: int, choose: Callable[[int], np.ndarray]) -> Tensor:
    """The frames ``choose(frame count)`` asks for, scaled so that the shorter side is ``short_side`` pixels.

    Returns uint8 (frames, H, W, 3). Raises DecodeError.
    """
    try:
        width, height = _scaled(path, short_side)
        reader = decord.VideoReader(str(path), width=width, height=height, num_threads=1)
        if not len(reader):
            raise DecodeError("no frames")
        wanted, back = np.unique(choose(len(reader)), return_inverse=True)
        frames = reader.get_batch(wanted.tolist()).asnumpy()
    except (decord.DECORDError, av.FFmpegError, RuntimeError, IndexError, OSError) as error:
        raise DecodeError(_reason(path, error)) from None
    return torch.from_numpy(frames)[torch.from_numpy(back)]


def _scaled(path: Path, short_side: int) -> tuple[int, int]:
    """Width and height of the scaled video as it is shown, rotation applied."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise DecodeError("no video stream")
        frame = next(container.decode(video=0), None)
    if frame is None:
        raise DecodeError("no frames")
    width, height = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
    scale = short_side / min(width, height)
    return max(short_side, round(width * scale)), max(short_side, round(height * scale))


def _reason(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "no such file"
    if not path.stat().st_size:
        return "the file is empty"
    if isinstance(error, av.FFmpegError):
        return error.strerror or type(error).__name__
    said = str(error).splitlines()
    return f"decoding failed: {_WHERE.sub('', said[0])[:120]}" if said else type(error).__name__
