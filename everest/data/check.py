"""Trying every video beforehand."""

import signal
from collections.abc import Iterator
from multiprocessing import get_context

import numpy as np

from everest.data.decode import DecodeError, decode
from everest.data.index import Video, VideoIndex

_FRAMES = 8


def unreadable(index: VideoIndex, workers: int) -> Iterator[tuple[str, str | None]]:
    """Each video's path and, where frames from all over it cannot be decoded, the reason."""
    with get_context("forkserver").Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield from pool.imap(_try, index.videos)


def _try(video: Video) -> tuple[str, str | None]:
    try:
        decode(video.path, 64, lambda total: np.linspace(0, total - 1, _FRAMES).astype(int))
    except DecodeError as error:
        return str(video.path), str(error)
    return str(video.path), None
