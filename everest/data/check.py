"""Trying every video beforehand."""

from collections import deque
from collections.abc import Iterator
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import NamedTuple

from everest.data.files import VideoFile, VideoFiles
from everest.data.index import VideoIndex
from everest.data.reader.errors import DecodeError
from everest.data.reader.process import TIME_LIMIT_S, ask

_DEEP = 10  # times as long
_AHEAD = 10  # videos that are handed to a thread before it needs them


class Verdict(NamedTuple):
    """On one video."""

    path: str
    unreadable: str | None  # the reason, where a run could not use it
    remark: str | None  # what is odd about one that a run can use


def verdicts(index: VideoIndex[VideoFiles], workers: int, deep: bool = False) -> Iterator[Verdict]:
    """Decodes each video from the start, and by seeking as a run does: eight of its frames, or with ``deep`` all."""
    with ThreadPool(workers) as pool:
        asked: deque[AsyncResult[Verdict]] = deque()
        for video in index.videos:
            asked.append(pool.apply_async(_try, (video, deep)))
            if len(asked) > workers * _AHEAD:
                yield asked.popleft().get()
        for answer in asked:
            yield answer.get()


def _try(video: VideoFile, deep: bool) -> Verdict:
    limit = TIME_LIMIT_S * _DEEP if deep else TIME_LIMIT_S
    try:
        answer = ask(video.path, limit, task="compare", deep=deep, start=video.start, end=video.end)
    except DecodeError as error:
        return Verdict(video.name, str(error), None)
    return Verdict(video.name, None, answer["remark"])
