"""What a model makes of a video: the clip, its importance, kept and visible tokens, the reconstruction."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, UnidentifiedImageError
from torch import Tensor

from everest.data.clips import EvaluationViews
from everest.data.files import VideoFiles
from everest.data.index import VideoIndex
from everest.data.video import Video
from everest.export import Exported
from everest.files import whole_file
from everest.masks import METHODS
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.embed import TubeletEmbed
from everest.model.frames import select_frames
from everest.model.masks import ranking
from everest.model.masks.clip import Clip
from everest.model.targets import normalize_tubelets
from everest.program import printable
from everest.seeding import derived_seed

matplotlib.use("agg")
matplotlib.rcParams["text.parse_math"] = False  # a name may hold a $

_DIM = 0.18  # brightness of what is left out
_COLUMNS = 8
_PANEL_PIXELS = 224
_SOURCE = "Source"  # of PNG's own keywords
_NAMED_CLASSES = 40  # more have no room for their names


class Panel(NamedTuple):
    title: str
    frames: np.ndarray  # uint8 (T, H, W, 3)


def distinct_names(videos: Sequence[Path], folder: Path) -> dict[Path, str]:
    """A name for the pictures of each: the video's, and where another has the same one, more of its path before it.

    Another of ``videos``, or one whose pictures are in ``folder`` already. In Unicode, whatever the video's name is in.
    """
    names: dict[Path, str] = {}
    for video in dict.fromkeys(videos):
        parts = [printable(part) for part in Path(os.path.abspath(video)).parts[1:]]
        candidates = [parts[-1].removesuffix(video.suffix) or parts[-1], parts[-1]]
        candidates += ["-".join(parts[start:]) for start in range(len(parts) - 2, -1, -1)]
        more = (f"{candidates[-1]}-{number}" for number in count(2))
        taken = {name.lower() for name in names.values()}
        free = (name for name in chain(candidates, more) if name.lower() not in taken)
        names[video] = next(name for name in free if _may_be_drawn(folder, name, video))
    return names


def _may_be_drawn(folder: Path, name: str, video: Path) -> bool:
    """Whether there is no picture of that name, or the video's own."""
    png, gif = folder / f"{name}.png", folder / f"{name}.gif"
    if not png.exists():
        return not gif.exists()
    with suppress(UnidentifiedImageError), Image.open(png) as image:
        return image.info.get(_SOURCE) == _source(video)
    return False


def made_from(video: Path) -> dict[str, str]:
    """What goes into a PNG, so that ``distinct_names`` knows it again."""
    return {_SOURCE: _source(video)}


def _source(video: Path) -> str:
    """What a picture remembers it was made from."""
    return printable(os.path.abspath(video))


def draw(
    exported: Exported, video: Video, folder: Path, name: str | None = None, path: Path | None = None
) -> list[Path]:
    """Writes a PNG (steps side by side) and a GIF (moving), by default named after the video; returns both.

    ``path`` says where the video is, if its name alone does not. A classifier has no reconstruction: it shows what it
    keeps. Raises DecodeError.
    """
    panels = make_panels(exported, video)
    path = path or Path(video.name)
    name = name or distinct_names([path], folder)[path]
    png, gif = folder / f"{name}.png", folder / f"{name}.gif"
    _write_png(png, panels, path)
    _write_gif(gif, panels)
    return [png, gif]


def draw_still(exported: Exported, video: Video, png: Path) -> None:
    """The PNG alone. Raises DecodeError."""
    _write_png(png, make_panels(exported, video), Path(video.name))


@torch.no_grad()
def make_panels(exported: Exported, video: Video) -> list[Panel]:
    """The rows of the picture, from the middle of the video."""
    model, config = exported.model, exported.config
    device = next(model.parameters()).device
    views = EvaluationViews(VideoIndex(Path(video.name), VideoFiles.of([]), ()), config, segments=1, crops=1)
    clip = views.views(video).to(device)
    embed = model.patch_embed
    if config.frames.select:
        clip = select_frames(embed, clip, config.model.num_frames, config.frames, generator=None)
    section = config.classify if isinstance(model, Classifier) else config.mask
    cut = Clip.cut(embed, clip, section.distance)
    cells = _Cells(embed, clip.shape[1:4])
    pixels = clip[0].cpu().numpy()
    importance = _importance(cut, section.method)
    panels = [Panel("clip", pixels), Panel("importance", _heat(pixels, cells.map(importance)))]

    if isinstance(model, Classifier):
        kept = model.keep(cut)
        panels.append(Panel(f"kept {kept.shape[1]} of {cells.tokens}", _dim(pixels, cells.mask(kept))))
        return panels
    return panels + _reconstruction(model, clip, cut.tubelets, cells, pixels)


def _importance(clip: Clip, name: str) -> Tensor:
    """What the method ranks tokens by, none below 0; how much they change where it ranks by chance or not at all."""
    method = METHODS.get(name)
    by = name if method and method.ranks and not method.by_chance else "rero"
    scores = ranking(by)(clip, None)
    return scores - scores.min().clamp(max=0)


def _reconstruction(
    model: PretrainModel, clip: Tensor, tubelets: Tensor, cells: "_Cells", pixels: np.ndarray
) -> list[Panel]:
    # Of its own: a picture may be drawn while training draws from torch's.
    generator = torch.Generator(clip.device).manual_seed(derived_seed("figures") % 2**63)
    out = model(clip, generator=generator)
    truth = cells.embed.pixels.unit(tubelets.flatten(1, 2)).unflatten(-1, (-1, 3))
    _, mean, deviation = normalize_tubelets(truth)
    guess = truth.clone()
    hidden = out.hidden[0]
    predicted = out.prediction[0].unflatten(-1, (-1, 3)).float()
    guess[0, hidden] = predicted * deviation[0, hidden] + mean[0, hidden]
    kept, visible = cells.mask(out.kept), cells.mask(out.visible)
    return [
        Panel(f"kept {out.kept.shape[1]} of {cells.tokens}", _dim(pixels, kept)),
        Panel(f"visible {out.visible.shape[1]}", _dim(pixels, visible)),
        Panel("reconstruction", _dim(cells.pixels(guess), kept)),
    ]


def draw_confusion(counts: Tensor, classes: Sequence[str], png: Path) -> None:
    """``counts`` (classes, classes): videos by true class (row) and answer (column), drawn as shares of each row."""
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    named = len(classes) <= _NAMED_CLASSES
    side = 2.5 + 0.45 * min(len(classes), _NAMED_CLASSES)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if named:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for row, column in np.argwhere(counts.numpy()):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="answer", ylabel="true class", title=f"{int(counts.sum())} videos")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    with whole_file(png) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


class _Cells:
    """From tokens of one clip back to pixels."""

    def __init__(self, embed: TubeletEmbed, size: torch.Size) -> None:
        self.embed = embed
        T, H, W = size
        self.grid = (T // embed.tubelet_size, H // embed.patch_size, W // embed.patch_size)
        self.tokens = int(np.prod(self.grid))

    def pixels(self, tubelets: Tensor) -> np.ndarray:
        """(1, S*N, t*y*x, 3) in [0, 1] -> uint8 (T, H, W, 3)."""
        (S, R, C), t, p = self.grid, self.embed.tubelet_size, self.embed.patch_size
        video = tubelets.reshape(S, R, C, t, p, p, 3).permute(0, 3, 1, 4, 2, 5, 6).reshape(S * t, R * p, C * p, 3)
        pixels: np.ndarray = (video.clamp(0, 1) * 255).round().byte().cpu().numpy()
        return pixels

    def map(self, values: Tensor) -> np.ndarray:
        """One number a token, (1, S, N) or (1, S*N) -> one a pixel, (T, H, W)."""
        grid = values.reshape(self.grid).float().cpu().numpy()
        t, p = self.embed.tubelet_size, self.embed.patch_size
        return grid.repeat(t, axis=0).repeat(p, axis=1).repeat(p, axis=2)

    def mask(self, index: Tensor) -> np.ndarray:
        """Tokens (1, K) -> bool (T, H, W)."""
        chosen = torch.zeros(1, self.tokens).scatter_(1, index.cpu(), 1)
        return self.map(chosen) > 0


def _heat(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Importance as colour over the darkened clip, the 99th percentile brightest."""
    scaled = np.clip(values / max(float(np.percentile(values, 99)), 1e-6), 0, 1)
    colour = colormaps["inferno"](scaled)[..., :3] * 255
    grey = pixels.mean(axis=-1, keepdims=True)
    return np.asarray(0.35 * grey + 0.65 * colour, np.uint8)


def _dim(pixels: np.ndarray, shown: np.ndarray) -> np.ndarray:
    return np.where(shown[..., None], pixels, (pixels * _DIM).astype(np.uint8))


def _write_png(path: Path, panels: list[Panel], video: Path) -> None:
    steps = np.linspace(0, len(panels[0].frames) - 1, _COLUMNS).round().astype(int)
    figure = Figure(figsize=(_COLUMNS * 1.5 + 1.2, len(panels) * 1.55 + 0.4), facecolor="#111111", layout="constrained")
    axes = figure.subplots(len(panels), _COLUMNS, squeeze=False)
    for row, panel in zip(axes, panels, strict=True):
        for cell, step in zip(row, steps, strict=True):
            cell.imshow(panel.frames[step])
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        row[0].set_ylabel(panel.title.replace(" of ", "\nof "), color="white", fontsize=10)
    for cell, step in zip(axes[0], steps, strict=True):
        cell.set_title(f"frame {step}", color="#aaaaaa", fontsize=8)
    figure.suptitle(printable(video.name), color="white", fontsize=10, parse_math=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata=made_from(video))


def _write_gif(path: Path, panels: list[Panel]) -> None:
    side = max(1, _PANEL_PIXELS // panels[0].frames.shape[2])
    strips = []
    for step in range(len(panels[0].frames)):
        images = [panel.frames[step].repeat(side, axis=0).repeat(side, axis=1) for panel in panels]
        height, width = images[0].shape[:2]
        strip = Image.new("RGB", (len(panels) * (width + 4) - 4, height + 18), "#111111")
        write = ImageDraw.Draw(strip)
        for column, (panel, image) in enumerate(zip(panels, images, strict=True)):
            strip.paste(Image.fromarray(image), (column * (width + 4), 18))
            write.text((column * (width + 4) + 4, 3), panel.title, fill="white")
        strips.append(strip)
    with whole_file(path) as temporary:
        strips[0].save(temporary, format="gif", save_all=True, append_images=strips[1:], duration=120, loop=0)
