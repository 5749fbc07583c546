"""timm's RandAugment on a whole clip: uint8 (T, H, W, 3) in and out, each operation once, all frames alike.

timm reads the notation and draws operations and magnitudes, from the global generators. Only what an operation
does to pixels is ours, to the same effect as PIL's on each frame.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment as timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torch import Tensor

from everest.data.resampling import A_HAIR, affine, blurred, sharpened

Operation = Callable[..., Tensor]

_MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_DEFAULT_MEAN)
_LUMINANCE = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue
_ALL_VALUES = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2))


def rand_augment(clip: Tensor, policy: str) -> Tensor:
    """``policy`` in timm's notation. What an operation leaves empty gets ImageNet's mean colour."""
    shorter = min(clip.shape[1:3])
    augment = timm.rand_augment_transform(policy, {"translate_const": int(shorter * 0.45), "img_mean": _MEAN_COLOUR})
    for operation in augment.ops:
        operation.aug_fn = ON_CLIPS[operation.aug_fn]
    changed: Tensor = augment(clip.contiguous())
    return changed


def by_table(on_picture: Callable[..., Image.Image]) -> Operation:
    """An operation that looks at each value alone: its table is what timm makes of a picture of all values."""

    def on_clip(clip: Tensor, *level: float, **options: Any) -> Tensor:
        return _looked_up(clip, np.asarray(on_picture(_ALL_VALUES, *level, **options))[0, :, 0])

    return on_clip


def _looked_up(values: Tensor, table: np.ndarray) -> Tensor:
    """``table[values]``: of bytes, nothing does it faster."""
    return torch.frombuffer(bytearray(values.numpy()).translate(table.tobytes()), dtype=torch.uint8).view_as(values)


def posterize(clip: Tensor, bits_to_keep: int, **_: Any) -> Tensor:
    """0 bits are a black clip, where PIL has no answer."""
    return clip & (0xFF << max(8 - bits_to_keep, 0) & 0xFF)


def auto_contrast(clip: Tensor, **_: Any) -> Tensor:
    """From the darkest to the brightest value of each frame and colour, spread over 0 … 255."""
    changed = torch.empty_like(clip)
    for frame, out in zip(clip, changed.numpy(), strict=True):
        out[:] = _auto_contrast(frame).numpy()
    return changed


def _auto_contrast(frame: Tensor) -> Tensor:
    """The values before they are rounded down."""
    H, W, _ = frame.shape
    rows = frame.view(H, W * 3)
    low, high = rows.amin(0).view(W, 3).amin(0).float(), rows.amax(0).view(W, 3).amax(0).float()
    flat = high <= low
    scale = (255 / (high - low)).masked_fill(flat, 1)
    shift = (1e-3 - low * scale).masked_fill(flat, 0)  # a hair more, as what is whole must not be rounded down
    return torch.addcmul(shift.repeat(W), rows.float(), scale.repeat(W)).view_as(frame)


def equalize(clip: Tensor, **_: Any) -> Tensor:
    """Each frame's and colour's values spread so that all are about equally frequent."""
    tables_of = (256 * torch.arange(3, dtype=torch.int32)).repeat(clip.shape[1] * clip.shape[2])
    return torch.stack([_equalize(frame, tables_of) for frame in clip])


def _equalize(frame: Tensor, tables_of: Tensor) -> Tensor:
    places = frame.view(-1) + tables_of
    counts = torch.bincount(places, minlength=3 * 256).view(3, 256)
    below = counts.cumsum(1) - counts
    brightest = counts.gather(1, 255 - (counts.flip(1) > 0).int().argmax(1, keepdim=True))
    step = (counts.sum(1, keepdim=True) - brightest) // 255
    tables = torch.where(step > 0, (below + step // 2) // step.clamp(min=1), torch.arange(256))
    return tables.clamp(max=255).to(torch.uint8).view(-1).index_select(0, places).view_as(frame)


def color(clip: Tensor, factor: float, **_: Any) -> Tensor:
    """From grey (0) over the clip (1) to more colour than it has."""
    mixing = (factor * torch.eye(3) + (1 - factor) * _LUMINANCE[:, None]) * (1 + A_HAIR)
    changed = torch.empty_like(clip)
    for frame, out in zip(clip, changed.numpy(), strict=True):
        out[:] = (frame.float() @ mixing).clamp_(0, 255).numpy()
    return changed


def desaturate(clip: Tensor, factor: float, **_: Any) -> Tensor:
    return color(clip, min(1.0, max(0.0, 1.0 - factor)))


def contrast(clip: Tensor, factor: float, **_: Any) -> Tensor:
    """From each frame's mean brightness (0) over the clip (1) to more contrast than it has."""
    share = _LUMINANCE.repeat(clip[0].numel() // 3) / (clip[0].numel() // 3)
    means = torch.stack([(frame.view(-1).float() @ share).round() for frame in clip])
    values = torch.lerp(means[:, None], torch.arange(256.0), factor) * (1 + A_HAIR)
    tables = values.clamp(0, 255).to(torch.uint8).numpy()
    return torch.stack([_looked_up(frame, table) for frame, table in zip(clip, tables, strict=True)])


def sharpness(clip: Tensor, factor: float, **_: Any) -> Tensor:
    return sharpened(clip, factor)


def gaussian_blur(clip: Tensor, factor: float, **_: Any) -> Tensor:
    return blurred(clip, factor)


def gaussian_blur_rand(clip: Tensor, factor: float, **_: Any) -> Tensor:
    return blurred(clip, random.uniform(0.1, 2.0 * factor))


def moved(matrix: Callable[[float, int, int], tuple[float, ...]]) -> Operation:
    """An operation that moves pixels: ``matrix`` of its level, the width and the height, as PIL has it."""

    def on_clip(clip: Tensor, level: float, fillcolor: tuple[int, ...], resample: tuple[int, ...]) -> Tensor:
        _, H, W, _ = clip.shape
        return affine(clip, matrix(level, W, H), random.choice(resample) == Image.Resampling.BICUBIC, fillcolor)

    return on_clip


def _rotation(degrees: float, width: int, height: int) -> tuple[float, ...]:
    """Counterclockwise, about the middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


ON_CLIPS: dict[Callable[..., Image.Image], Operation] = {
    timm.auto_contrast: auto_contrast,
    timm.equalize: equalize,
    timm.invert: by_table(timm.invert),
    timm.solarize: by_table(timm.solarize),
    timm.solarize_add: by_table(timm.solarize_add),
    timm.brightness: by_table(timm.brightness),
    timm.posterize: posterize,
    timm.contrast: contrast,
    timm.color: color,
    timm.desaturate: desaturate,
    timm.sharpness: sharpness,
    timm.gaussian_blur: gaussian_blur,
    timm.gaussian_blur_rand: gaussian_blur_rand,
    timm.rotate: moved(_rotation),
    timm.shear_x: moved(lambda factor, W, H: (1, factor, 0, 0, 1, 0)),
    timm.shear_y: moved(lambda factor, W, H: (1, 0, 0, factor, 1, 0)),
    timm.translate_x_abs: moved(lambda pixels, W, H: (1, 0, pixels, 0, 1, 0)),
    timm.translate_y_abs: moved(lambda pixels, W, H: (1, 0, 0, 0, 1, pixels)),
    timm.translate_x_rel: moved(lambda share, W, H: (1, 0, share * W, 0, 1, 0)),
    timm.translate_y_rel: moved(lambda share, W, H: (1, 0, 0, 0, 1, share * H)),
}
