"""The clips of one video: which frames, which part of the picture, changed how."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from everest.config import Experiment
from everest.data import sampling
from everest.data.decode import DecodeError
from everest.data.index import VideoIndex
from everest.data.transforms import changed, evenly_placed_crop, random_crop, scale_short_side
from everest.data.video import Cut, Plan, Video
from everest.errors import EverestError
from everest.seeding import seed_cpu

_REPLACEMENTS = 20


class Clips(NamedTuple):
    """What a dataset gives for one index, before batching."""

    frames: Sequence[Tensor]  # n times uint8 (T, H, W, 3), none for an unreadable video in evaluation
    label: int
    path: str
    bad: dict[str, str]


class TrainClips(Dataset[Clips]):
    """``data.repeats`` random clips of the same frames; random choices depend on (seed, epoch, sample) alone.

    An unreadable video is replaced by another, the same one each time.
    """

    def __init__(self, index: VideoIndex, config: Experiment) -> None:
        self.index, self.config = index, config
        self.shape = _shape(config)
        self._bad: dict[int, str] = {}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Clips]:
        plans = {position: self._plan(self._choices(epoch, position, 0)) for epoch, position in keys}
        self.index.videos.bring({at: lambda *video, plan=plan: plan(*video).numbers for at, plan in plans.items()})
        return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, int]) -> Clips:
        epoch, position = key
        bad = {}
        for attempt in range(_REPLACEMENTS):
            choices = self._choices(epoch, position, attempt)
            seed_cpu(*choices)
            at = position if attempt == 0 else int(np.random.randint(len(self.index.videos)))
            video = self.index.videos[at]
            try:
                if at in self._bad:  # no second try in this process
                    raise DecodeError(self._bad[at])
                frames = self._clips(video, choices)
            except DecodeError as error:
                bad[video.name] = self._bad[at] = str(error)
            else:
                return Clips(frames, -1 if video.label is None else video.label, video.name, bad)
        raise EverestError(f"{_REPLACEMENTS} videos in a row are unreadable, the last {video.name}: {bad[video.name]}")

    def _choices(self, epoch: int, position: int, attempt: int) -> tuple[int | str, ...]:
        """What random choices depend on."""
        return self.config.seed, "clip", epoch, position, attempt

    def _clips(self, video: Video, choices: tuple[int | str, ...]) -> list[Tensor]:
        clips = video.cut(self._plan(choices), self.config.data)
        seed_cpu(*choices, "changes")  # whatever was drawn while they were read
        return [changed(clip, self.config) for clip in clips]

    def _plan(self, choices: tuple[int | str, ...]) -> Plan:
        def plan(total: int, height: int, width: int) -> Cut:
            seed_cpu(*choices, "cut")
            numbers = self._choose(total, self.shape[0])
            crops = tuple(random_crop(height, width, self.config) for _ in range(self.config.data.repeats))
            return Cut(numbers, crops, self.config.model.image_size)

        return plan

    def _choose(self, total: int, count: int) -> np.ndarray:
        if self.config.data.sampling == "segment":
            return sampling.segments(total, count, np.random.rand(count))
        spread = self.config.stage == "finetune"
        return sampling.dense(total, count, self.config.data.rate, float(np.random.rand()), spread)


class EvaluationViews(Dataset[Clips]):
    """``segments`` x ``crops`` fixed views of a video; of an unreadable one none, its name among the bad."""

    def __init__(self, index: VideoIndex, config: Experiment, segments: int, crops: int) -> None:
        self.index, self.config, self.segments, self.crops = index, config, segments, crops
        self.shape = _shape(config)

    def __getitems__(self, positions: Sequence[int]) -> list[Clips]:
        self.index.videos.bring({position: lambda total, *_: self._frames(total) for position in positions})
        return [self[position] for position in positions]

    def __getitem__(self, position: int) -> Clips:
        video = self.index.videos[position]
        target = -1 if video.label is None else video.label
        try:
            return Clips([*self.views(video)], target, video.name, {})
        except DecodeError as error:
            return Clips([], target, video.name, {video.name: str(error)})

    def views(self, video: Video) -> Tensor:
        """uint8 (segments * crops, T, H, W, 3) of one video. Raises DecodeError."""
        return self._crops(video.frames(self._frames, self.config.model.image_size, self.config.data))

    def views_of(self, frames: Tensor) -> Tensor:
        """The same of a video already decoded, uint8 (frames, H, W, 3)."""
        chosen = frames[torch.from_numpy(self._frames(len(frames)))]
        return self._crops(scale_short_side(chosen, self.config.model.image_size))

    def _frames(self, total: int) -> np.ndarray:
        return np.concatenate([self._choose(total, number) for number in range(self.segments)])

    def _crops(self, frames: Tensor) -> Tensor:
        count, size = self.shape[0], self.config.model.image_size
        return torch.stack(
            [evenly_placed_crop(clip, size, where) for clip in frames.split(count) for where in _even(self.crops)]
        )

    def _choose(self, total: int, number: int) -> np.ndarray:
        """Frames of view ``number``: sampled by parts, each view takes its own place, (number + 0.5) / segments."""
        if self.config.data.sampling == "segment":
            return sampling.segments(total, self.shape[0], (number + 0.5) / self.segments)
        return sampling.dense_view(total, self.shape[0], self.config.data.rate, number, self.segments)


def _shape(config: Experiment) -> tuple[int, int, int, int]:
    """Of a clip: (T, H, W, 3)."""
    model = config.model
    count = config.frames.candidates(model.num_frames, model.tubelet_size)
    return count, model.image_size, model.image_size, 3


def _even(count: int) -> list[float]:
    """``count`` places from 0 to 1, both included; the middle where there is one."""
    return [0.5] if count == 1 else np.linspace(0, 1, count).tolist()
