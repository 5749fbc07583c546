"""Trying every video beforehand."""

from collections.abc import Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

from everest.data.index import VideoFile, VideoIndex
from everest.data.reader.errors import DecodeError
from everest.data.reader.process import TIME_LIMIT_S, ask

_DEEP = 10  # times as long


class Verdict(NamedTuple):
    """On one video."""

    path: str
    unreadable: str | None  # the reason, where a run could not use it
    remark: str | None  # what is odd about one that a run can use


def verdicts(index: VideoIndex, workers: int, deep: bool = False) -> Iterator[Verdict]:
    """Decodes each video from the start, and by seeking as a run does: eight of its frames, or with ``deep`` all."""
    with ThreadPool(workers) as pool:
        yield from pool.imap(partial(_try, deep=deep), index.videos)


def _try(video: VideoFile, deep: bool) -> Verdict:
    limit = TIME_LIMIT_S * _DEEP if deep else TIME_LIMIT_S
    try:
        answer = ask(video.path, limit, task="compare", deep=deep)
    except DecodeError as error:
        return Verdict(str(video.path), str(error), None)
    return Verdict(str(video.path), None, answer["remark"])
