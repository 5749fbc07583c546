"""Trying every video beforehand."""

from collections.abc import Iterator

import numpy as np

from everest.data.decode import DecodeError, decode
from everest.data.index import Video, VideoIndex
from everest.data.workers import ignore_interrupts, worker_context

_FRAMES = 8


def unreadable(index: VideoIndex, workers: int) -> Iterator[tuple[str, str | None]]:
    """Each video's path and, where frames from all over it cannot be decoded, the reason."""
    with worker_context().Pool(workers, ignore_interrupts) as pool:
        yield from pool.imap(_try, index.videos)


def _try(video: Video) -> tuple[str, str | None]:
    try:
        decode(video.path, 64, lambda total: np.linspace(0, total - 1, _FRAMES).astype(int))
    except DecodeError as error:
        return str(video.path), str(error)
    return str(video.path), None
