"""A labelled set of short H.264 videos whose class is how things move, never how they look.

Backgrounds are textured; one or two things move over them. Places wrap around, angles turn and sizes cycle,
all from a uniformly random start, so that every single frame looks the same in each class: only time tells
the classes apart. A camera may move as well: the class is then how things move against the background.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from everest.data.camera import Camera, CameraMotion, View, sample
from everest.data.encode import write_video
from everest.errors import UsageError
from everest.files import write_text
from everest.seeding import derived_seed

#: Per frame: displacement in pixels (x, y), rotation in radians, growth (log of the size's factor).
MOTIONS: dict[str, tuple[float, float, float, float]] = {
    "left": (-2, 0, 0, 0),
    "right": (2, 0, 0, 0),
    "up": (0, -2, 0, 0),
    "down": (0, 2, 0, 0),
    "clockwise": (0, 0, 0.16, 0),
    "counterclockwise": (0, 0, -0.16, 0),
    "grow": (0, 0, 0, 0.06),
    "shrink": (0, 0, 0, -0.06),
}
CLASSES = tuple(MOTIONS)
FRAMES_PER_SECOND = 25

_STAMP = "synthetic.json"

SceneName = Literal["plain", "cluttered"]


class Scene(NamedTuple):
    """How background and things look, in values of 255."""

    background: float  # mean
    contrast: float  # of its texture
    brightest: float  # background
    things: int  # most
    sizes: tuple[float, float]  # of the frame's side; growing things wrap around within these
    colours: tuple[float, float]  # of things
    texture: float  # their contrast
    worn: bool  # their texture moves with them


#: In ``plain`` ones things stand out; in ``cluttered`` ones a small thing looks like what is around it.
SCENES: dict[SceneName, Scene] = {
    "plain": Scene(70, 45, 130, things=2, sizes=(0.11, 0.26), colours=(150, 255), texture=15, worn=False),
    "cluttered": Scene(128, 130, 255, things=1, sizes=(0.08, 0.16), colours=(98, 158), texture=130, worn=True),
}


def synthesize(
    folder: Path,
    train: int,
    val: int,
    size: int,
    frames: int,
    seed: int,
    progress: Callable[[int, int], None],
    camera: CameraMotion = "still",
    scene: SceneName = "plain",
) -> None:
    """Writes ``train`` + ``val`` videos of ``size`` x ``size`` pixels, train.csv, val.csv and classes.txt.

    The classes take turns, so each has as many videos. The lists come last: where they are, the set is whole.
    ``progress`` is told how many of how many videos are written. Raises UsageError where other videos are
    already there.
    """
    recipe: dict[str, int | str] = {
        "train": train,
        "val": val,
        "size": size,
        "frames": frames,
        "seed": seed,
        "version": 1,
    }
    if camera != "still":
        recipe["camera"] = camera
    if scene != "plain":
        recipe["scene"] = scene
    if is_whole(folder, recipe):
        progress(train + val, train + val)
        return
    for number in range(train + val):
        rng = np.random.default_rng(derived_seed(seed, number))
        video = render(CLASSES[label_of(number)], size, frames, rng, camera, scene)
        write_video(folder / name_of(number), video, FRAMES_PER_SECOND)
        progress(number + 1, train + val)
    finish(folder, recipe)


def name_of(number: int) -> str:
    return f"videos/{number:05d}.mp4"


def label_of(number: int) -> int:
    """The classes take turns."""
    return number % len(CLASSES)


def is_whole(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether the set is finished already, or else is to be made. Raises UsageError where another one is there."""
    stamp = folder / _STAMP
    if stamp.exists():
        if json.loads(stamp.read_text()) != recipe:
            raise UsageError(f"{folder} holds a synthetic set of other settings ({stamp}); choose another folder")
        return True
    (folder / name_of(0)).parent.mkdir(parents=True, exist_ok=True)
    return False


def finish(folder: Path, recipe: dict[str, Any]) -> None:
    """Writes the lists of a set whose videos are there: the first ``train``, and ``val`` more. It is whole then."""
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
    train, total = recipe["train"], recipe["train"] + recipe["val"]
    for split, numbers in (("train", range(train)), ("val", range(train, total))):
        write_text(folder / f"{split}.csv", "".join(f"{name_of(n)},{label_of(n)}\n" for n in numbers))
    write_text(folder / _STAMP, json.dumps(recipe))


def render(
    motion: str,
    size: int,
    frames: int,
    rng: np.random.Generator,
    camera: CameraMotion = "still",
    scene: SceneName = "plain",
) -> np.ndarray:
    """One video of a class: uint8 (frames, size, size, 3)."""
    return render_with_mask(motion, size, frames, rng, camera, scene)[0]


def render_with_mask(
    motion: str,
    size: int,
    frames: int,
    rng: np.random.Generator,
    camera: CameraMotion = "still",
    scene: SceneName = "plain",
) -> tuple[np.ndarray, np.ndarray]:
    """``render``'s video, and what share of each pixel its things cover: float32 (frames, size, size).

    The same numbers give the same things over the same background, whatever the camera does.
    """
    look = SCENES[scene]
    background = np.clip(_texture(size, rng, look.contrast) + look.background, 0, look.brightest)
    things = [_Thing(look, size, rng) for _ in range(rng.integers(1, look.things + 1))]
    dx, dy, turn, growth = MOTIONS[motion]
    pace = rng.uniform(0.7, 1.3) * np.array([dx * size / 64, dy * size / 64, turn, growth])
    views = Camera(camera, size, rng)
    video, mask = np.empty((frames, size, size, 3), np.uint8), np.empty((frames, size, size), np.float32)
    for t in range(frames):
        view = views.at(t)
        image, bare = view.of(background).copy(), np.ones((size, size))
        for thing in things:
            cover = thing.paint(image, view, *(pace * t))
            bare *= 1 - cover
        video[t], mask[t] = np.clip(image, 0, 255), 1 - bare
    return video, mask


class _Thing:
    """A textured shape with its start: place, angle and size are uniform over all there are."""

    def __init__(self, look: Scene, size: int, rng: np.random.Generator) -> None:
        self.look, self.size = look, size
        self.centre = rng.uniform(0, size, 2)
        self.angle = rng.uniform(0, 2 * math.pi)
        self.phase = rng.uniform()
        self.corners = int(rng.integers(3, 6))
        self.stretch = rng.uniform(1.5, 2.0)
        self.colour = rng.uniform(*look.colours, 3) + _texture(size, rng, look.texture)

    def paint(self, image: np.ndarray, view: View, dx: float, dy: float, turn: float, growth: float) -> np.ndarray:
        """Over ``image``; returns the share of each pixel that it covers."""
        smallest, largest = (math.log(side * self.size) for side in self.look.sizes)
        radius = math.exp(smallest + (self.phase * (largest - smallest) + growth) % (largest - smallest))
        u, v = (self._from(view.x, self.centre[0] + dx), self._from(view.y, self.centre[1] + dy))
        cos, sin = math.cos(self.angle + turn), math.sin(self.angle + turn)
        along, across = u * cos + v * sin, v * cos - u * sin
        if self.look.worn:
            scale = self.look.sizes[1] * self.size / radius
            colour = sample(self.colour, along * scale + self.size / 2, across * scale + self.size / 2)
        else:
            colour = view.of(self.colour)
        along = along / self.stretch
        sector = 2 * math.pi / self.corners
        bearing = np.arctan2(across, along) % sector - sector / 2
        edge = radius - np.hypot(along, across) * np.cos(bearing) / math.cos(sector / 2) * 0.8
        cover: np.ndarray = np.clip(edge * view.zoom + 0.5, 0, 1)
        image += cover[..., None] * (colour - image)
        return cover

    def _from(self, grid: np.ndarray, centre: float) -> np.ndarray:
        """Distance from a centre on a frame whose edges meet."""
        return (grid - centre + self.size / 2) % self.size - self.size / 2


def _texture(size: int, rng: np.random.Generator, contrast: float) -> np.ndarray:
    """Smooth coloured noise over three scales, (size, size, 3), about 0."""
    image = np.zeros((size, size, 3))
    for cells in (4, 8, 16):
        grid = torch.from_numpy(rng.normal(size=(1, 3, cells, cells)))
        smooth = F.interpolate(grid, (size, size), mode="bicubic", align_corners=False)[0]
        image += smooth.permute(1, 2, 0).numpy() * contrast / math.sqrt(cells)
    return image
