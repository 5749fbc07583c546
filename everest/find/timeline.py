"""How many of a video's most important tokens lie in each of its steps, read once, in memory for a few clips."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from everest.config import Distance, ModelConfig, token_count
from everest.data.decode import DecodeError, pictures
from everest.data.reader.frames import Begin, Picture
from everest.model.embed import TubeletEmbed
from everest.model.masks import Ranking
from everest.model.masks.clip import Clip

_AT_ONCE = 16  # steps

#: What is said of a long video while it is read: seconds of it that are done, and about how many there are.
Progress = Callable[[float, float], None]


class Look(NamedTuple):
    """How steps are cut from a video, and their tokens compared with those of the step before."""

    embed: TubeletEmbed
    scores: Ranking
    distance: Distance
    short_side: int  # pixels
    every: int  # one frame in so many

    @classmethod
    def untrained(cls, scores: Ranking, every: int) -> "Look":
        """With an embedding that is random, and always the same: 14 tokens along the shorter side."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            embed = TubeletEmbed(ModelConfig(size="small", image_size=112, patch_size=8))
        return cls(embed, scores, "l2", 112, every)

    def importance(self, frames: Tensor) -> Tensor:
        """uint8 (T, H, W, 3) -> (S, N), on the CPU. Margins that fill no patch are left out."""
        p = self.embed.patch_size
        _, H, W, _ = frames.shape
        top, left = H % p // 2, W % p // 2
        whole = frames[None, :, top : top + H // p * p, left : left + W // p * p]
        device = self.embed.proj.weight.device
        with torch.no_grad():
            return self.scores(Clip.cut(self.embed, whole.to(device), self.distance), None)[0].float().cpu()


class Timeline(NamedTuple):
    """Of each step, (S,): ``counts``, how many of the ``kept`` tokens lie in it (c_i); ``change``, the sum of their
    importance; ``times``, when it begins."""

    counts: np.ndarray
    change: np.ndarray
    times: np.ndarray  # seconds from the first frame
    tokens: int  # of a step
    kept: int
    seconds: float  # of the video
    rate: float  # of the original, frames per second
    short_side: int  # of the original, pixels


class MostImportant:
    """The ``count`` most important tokens of all that go by; of equal ones the earlier, as in ``keep_important``.

    What changes nothing at all is not among them. Exact, in memory for ``count`` of them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.steps = 0
        self._values, self._steps = torch.empty(0), torch.empty(0, dtype=torch.long)

    def add(self, importance: Tensor) -> None:
        """Of the next steps: (S, N)."""
        S, N = importance.shape
        values, steps = importance.flatten(), (torch.arange(S) + self.steps).repeat_interleave(N)
        self.steps += S
        least = self._values[-1] if len(self._values) == self.count else 0
        higher = values > least
        values, steps = torch.cat([self._values, values[higher]]), torch.cat([self._steps, steps[higher]])
        order = values.sort(descending=True, stable=True).indices[: self.count]
        self._values, self._steps = values[order], steps[order]

    def by_step(self, among: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the first ``among`` of them, how many lie in each step so far, and the sum of their importance: (S,)."""
        steps, values = self._steps[:among], self._values[:among].double()
        counts = torch.bincount(steps, minlength=self.steps)
        return counts.numpy(), torch.bincount(steps, values, minlength=self.steps).numpy()


def read_timeline(video: Path, look: Look, keep_ratio: float, shown_s: float, progress: Progress) -> Timeline:
    """Reads a video once. Raises DecodeError.

    As many tokens are kept, of the whole video, as are ``keep_ratio`` of those in ``shown_s`` seconds of it: all that
    is to be shown is taken for one long clip, whose tokens may be anywhere. Of a video that is not longer, they are
    the tokens that frame selection counts (EVEREST, section 3.3).
    """
    counting: _Counting | None = None
    for found in pictures(video, look.short_side, look.every):
        if isinstance(found, Begin):  # perhaps anew
            counting = _Counting(found, look, keep_ratio, shown_s)
        else:
            assert counting is not None
            counting.add(found)
            progress(found.seconds, found.seconds if counting.begin.seconds is None else counting.begin.seconds)
    assert counting is not None
    return counting.finish()


class _Counting:
    """Counts while pictures come, a few steps at a time."""

    def __init__(self, begin: Begin, look: Look, keep_ratio: float, shown_s: float) -> None:
        self.begin, self.look, self.keep_ratio = begin, look, keep_ratio
        self.shown = max(1, round(shown_s * begin.facts.rate / look.embed.tubelet_size))  # steps
        self.most: MostImportant | None = None
        self.tokens = 0  # of a step
        self.last = 0.0  # time of a picture
        self.times: list[float] = []
        self.waiting: list[np.ndarray] = []
        self.before: list[np.ndarray] = []  # the step before

    def add(self, picture: Picture) -> None:
        if len(self.waiting) % self.look.embed.tubelet_size == 0:
            self.times.append(picture.seconds)
        self.last = picture.seconds
        self.waiting.append(picture.pixels)
        if len(self.waiting) == _AT_ONCE * self.look.embed.tubelet_size:
            self._count()

    def _count(self) -> None:
        importance = self.look.importance(torch.from_numpy(np.stack(self.before + self.waiting)))
        if self.before:
            importance = importance[1:]
        if self.most is None:
            self.tokens = importance.shape[1]
            self.most = MostImportant(max(1, token_count(self.keep_ratio, self.shown * self.tokens)))
        self.most.add(importance)
        self.before, self.waiting = self.waiting[-self.look.embed.tubelet_size :], []

    def finish(self) -> Timeline:
        """Raises DecodeError where there are fewer pictures than a step has."""
        tubelet = self.look.embed.tubelet_size
        if left_over := len(self.waiting) % tubelet:
            self.waiting, self.times = self.waiting[:-left_over], self.times[:-1]
        if self.waiting:
            self._count()
        if self.most is None:
            raise DecodeError(f"of one frame in {self.look.every} there are fewer than {tubelet}; lower --rate")
        kept = min(self.most.count, max(1, token_count(self.keep_ratio, self.most.steps * self.tokens)))
        facts = self.begin.facts
        return Timeline(
            *self.most.by_step(kept),
            times=np.array(self.times),
            tokens=self.tokens,
            kept=kept,
            seconds=self.last + 1 / facts.rate,
            rate=facts.rate * self.look.every,
            short_side=min(facts.shown_height, facts.shown_width),
        )
