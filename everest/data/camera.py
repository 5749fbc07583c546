"""A camera that moves before a plane without end, for synthetic video."""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

CameraMotion = Literal["still", "pan", "zoom", "shake", "mixed"]

_PAN = (1.5, 3)  # pixels a frame, in a frame of 64 x 64
_ZOOM, _ZOOM_FRAMES = 0.4, (24, 48)  # largest log of the factor; frames from one close-up to the next
_SHAKE, _ROLL, _SHAKE_FRAMES = 3, 0.03, (5, 15)  # pixels of 64, radians; frames of a swing


class View(NamedTuple):
    """Where on the plane each pixel of a frame looks, in pixels of a frame that is not zoomed."""

    x: np.ndarray  # (size, size)
    y: np.ndarray
    zoom: float
    still: bool

    def of(self, picture: np.ndarray) -> np.ndarray:
        """``picture`` as ``sample`` has it, as seen from here."""
        return picture if self.still else sample(picture, self.x, self.y)


def sample(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``picture`` (size, size, 3), mirrored again and again over the whole plane, at the places of every pixel."""
    grid = torch.from_numpy(np.stack([x, y], axis=-1)) * (2 / len(picture)) - 1
    source = torch.from_numpy(picture).permute(2, 0, 1)
    seen = F.grid_sample(source[None], grid[None], "bicubic", "reflection", align_corners=False)[0]
    return seen.permute(1, 2, 0).numpy()


class Camera:
    """Draws how it moves when it is made; a still one draws nothing."""

    def __init__(self, motion: CameraMotion, size: int, rng: np.random.Generator) -> None:
        self.motion, self.size = motion, size
        self.y, self.x = np.mgrid[:size, :size] + 0.5
        if motion == "still":
            return
        heading = rng.uniform(0, 2 * math.pi)
        self.pan = rng.uniform(*_PAN) * size / 64 * np.array([math.cos(heading), math.sin(heading)])
        self.zoom_frames, self.zoom_start = rng.uniform(*_ZOOM_FRAMES), rng.uniform(0, 2 * math.pi)
        self.swing_frames, self.swing_start = rng.uniform(*_SHAKE_FRAMES, (3, 2)), rng.uniform(0, 2 * math.pi, (3, 2))

    def at(self, t: int) -> View:
        """The view of frame ``t``."""
        if self.motion == "still":
            return View(self.x, self.y, 1.0, True)
        offset, zoom, roll = np.zeros(2), 1.0, 0.0
        if self.motion in ("pan", "mixed"):
            offset = self.pan * t
        if self.motion in ("zoom", "mixed"):
            zoom = math.exp(_ZOOM * math.sin(2 * math.pi * t / self.zoom_frames + self.zoom_start))
        if self.motion in ("shake", "mixed"):
            swing = np.sin(2 * math.pi * t / self.swing_frames + self.swing_start).sum(axis=1)
            offset = offset + swing[:2] * _SHAKE * self.size / 64
            roll = swing[2] * _ROLL
        cos, sin = math.cos(roll) / zoom, math.sin(roll) / zoom
        u, v = self.x - self.size / 2, self.y - self.size / 2
        x, y = cos * u - sin * v + offset[0], sin * u + cos * v + offset[1]
        return View(x + self.size / 2, y + self.size / 2, zoom, False)
