"""What a list or folder says of its labels, for ``everest data check``."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from everest.data.files import VideoFiles, window_name
from everest.data.index import VideoIndex
from everest.errors import UsageError


def remarks(index: VideoIndex[VideoFiles]) -> Iterator[str]:
    """What may be meant otherwise, a line each: classes without videos, videos listed more than once.

    Raises UsageError where one file has two labels, by whatever links it is reached.
    """
    labels: defaultdict[str, set[int]] = defaultdict(set)
    times: Counter[str] = Counter()
    for at in index.videos.repeated(os.path.realpath, np.arange(len(index.videos))):
        path, label, start, end = index.videos[at]
        real = os.path.realpath(path) + window_name(start, end)
        labels[real] |= set() if label is None else {label}
        times[real] += 1
    if two := next((path for path, found in labels.items() if len(found) > 1), None):
        names = " and ".join(index.classes[label] for label in sorted(labels[two]))
        raise UsageError(f"{index.source}: one video has two labels, {names}: {two}")
    if times:
        yield f"{len(times)} listed more than once, the first {next(iter(times))}"
    used = set(np.unique(index.videos.labels).tolist())
    if empty := [name for number, name in enumerate(index.classes) if number not in used]:
        shown = ", ".join(empty[:10]) + (" …" if len(empty) > 10 else "")
        hint = " (labels count from 0; these may count from 1)" if 0 not in used else ""
        yield f"{len(empty)} classes without videos: {shown}{hint}"
