"""A labelled set of minutes of video in which little happens: a short event of a class, at a time written beside.

Things stand before a textured background, seen by a noisy sensor; a camera rests, and now and then pans slowly.
Once things move for a second or two, as their class does in ``everest.data.synthetic``.
"""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from everest.data import synthetic
from everest.data.camera import View
from everest.data.encode import write_video
from everest.data.synthetic import CLASSES, FRAMES_PER_SECOND, finish, is_whole, label_of, name_of
from everest.files import write_text
from everest.seeding import derived_seed

EVENTS = "events.csv"

_EVENT_S = (1.5, 3.0)
_REST_S, _PAN_S = (4.0, 12.0), (2.0, 6.0)
_PAN = (0.1, 0.4)  # pixels a frame, in a frame of 64 x 64
_NOISE = 2.0  # deviation, of 255


class Event(NamedTuple):
    """Frames in which things move: from ``first`` on, and before ``after``."""

    first: int
    after: int

    @classmethod
    def draw(cls, frames: int, rng: np.random.Generator) -> "Event":
        """Anywhere within so many frames, but for the very first one; shorter in a video that is."""
        length = min(round(rng.uniform(*_EVENT_S) * FRAMES_PER_SECOND), frames // 2)
        first = int(rng.integers(1, frames - length + 1))
        return cls(first, first + length)

    def moved(self, frame: int) -> int:
        """In how many frames things have moved by then."""
        return min(max(frame - self.first + 1, 0), self.after - self.first)


def synthesize_uncurated(
    folder: Path, train: int, val: int, size: int, seconds: float, seed: int, progress: Callable[[int, int], None]
) -> None:
    """Writes ``train`` + ``val`` videos of ``size`` x ``size`` pixels, their lists, classes.txt and events.csv.

    events.csv is a list of windows: of each video the label, and from where to where its event lasts in seconds. A
    finished set is left as it is. ``progress`` is told how many of how many videos are written. Raises UsageError
    where other videos are already there.
    """
    recipe = dict(kind="uncurated", train=train, val=val, size=size, seconds=seconds, seed=seed, version=1)
    if is_whole(folder, recipe):
        progress(train + val, train + val)
        return
    lines = ["path,label,start,end\n"]
    for number in range(train + val):
        rng = np.random.default_rng(derived_seed(seed, "uncurated", number))
        frames = round(seconds * FRAMES_PER_SECOND)
        event = Event.draw(frames, rng)
        images = render(CLASSES[label_of(number)], size, frames, event, rng)
        write_video(folder / name_of(number), images, FRAMES_PER_SECOND)
        start, end = (frame / FRAMES_PER_SECOND for frame in event)
        lines.append(f"{name_of(number)},{label_of(number)},{start:g},{end:g}\n")
        progress(number + 1, train + val)
    write_text(folder / EVENTS, "".join(lines))
    finish(folder, recipe)


def render(motion: str, size: int, frames: int, event: Event, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames of one video, uint8 (size, size, 3) each."""
    scene = synthetic.render(motion, size, event.after - event.first + 1, rng)
    y, x = np.mgrid[:size, :size] + 0.5
    noise = rng.normal(scale=_NOISE, size=(64, size, size, 3)).astype(np.float32)
    seen: tuple[int, float] | None = None
    for frame, panned in zip(range(frames), _pans(size, rng), strict=False):
        if (event.moved(frame), panned) != seen:
            seen = event.moved(frame), panned
            image = View(x + panned, y, 1.0, not panned).of(scene[seen[0]].astype(float))
        yield np.clip(np.rint(image + noise[rng.integers(len(noise))]), 0, 255).astype(np.uint8)


def _pans(size: int, rng: np.random.Generator) -> Iterator[float]:
    """How far the camera has panned in each frame, in pixels."""
    place = 0.0
    for turn in count():
        pans = turn % 2 == 1
        speed = rng.choice([-1, 1]) * rng.uniform(*_PAN) * size / 64 if pans else 0.0
        for _ in range(round(rng.uniform(*(_PAN_S if pans else _REST_S)) * FRAMES_PER_SECOND)):
            place += speed
            yield place
