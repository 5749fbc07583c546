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
from torch import Tensor

from everest.data.resampling import A_HAIR, blurred, sharpened, turned
from everest.data.sliding import along_columns, along_rows
from everest.model.pixels import IMAGENET_MEAN

Operation = Callable[..., Tensor]

_MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
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


def by_frame(on_picture: Callable[..., Image.Image]) -> Operation:
    """An operation that nothing does faster than PIL, frame by frame."""

    def on_clip(clip: Tensor, *level: float, **options: Any) -> Tensor:
        changed = torch.empty_like(clip)
        for frame, out in zip(clip.numpy(), changed.numpy(), strict=True):
            out[:] = np.asarray(on_picture(Image.fromarray(frame), *level, **options))
        return changed

    return on_clip


def _looked_up(values: Tensor, table: np.ndarray) -> Tensor:
    """``table[values]``: of bytes, nothing does it faster."""
    return torch.frombuffer(bytearray(values.numpy()).translate(table.tobytes()), dtype=torch.uint8).view_as(values)


def invert(clip: Tensor, **_: Any) -> Tensor:
    return ~clip


def posterize(clip: Tensor, bits_to_keep: int, **_: Any) -> Tensor:
    """0 bits are a black clip, where PIL has no answer."""
    return clip & (0xFF << max(8 - bits_to_keep, 0) & 0xFF)


def auto_contrast(clip: Tensor, **_options: Any) -> Tensor:
    """From the darkest to the brightest value of each frame and colour, spread over 0 … 255."""
    T, H, W, _ = clip.shape
    rows, changed = clip.view(T, H, W * 3), torch.empty_like(clip)
    low, high = rows.amin(1).view(T, W, 3).amin(1).float(), rows.amax(1).view(T, W, 3).amax(1).float()
    flat = high <= low
    scale = (255 / (high - low)).masked_fill(flat, 1)
    shift = (1e-3 - low * scale).masked_fill(flat, 0)  # a hair more, as what is whole must not be rounded down
    spread = zip(rows, scale.repeat(1, W), shift.repeat(1, W), changed.view(rows.shape).numpy(), strict=True)
    for frame, slope, start, out in spread:
        out[:] = torch.addcmul(start, frame.float(), slope).numpy()
    return changed


def color(clip: Tensor, factor: float, **_: Any) -> Tensor:
    """From grey (0) over the clip (1) to more colour than it has."""
    mixing = (factor * torch.eye(3) + (1 - factor) * _LUMINANCE[:, None]) * (1 + A_HAIR)
    together = math.gcd(4, clip[0].numel() // 3)  # pixels: matrices of 3 x 3 are too small to be multiplied fast
    mixing, changed = torch.block_diag(*[mixing] * together), torch.empty_like(clip)
    frames = clip.view(len(clip), -1, len(mixing))
    for frame, out in zip(frames, changed.view(frames.shape).numpy(), strict=True):
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


def moved(move: Callable[..., Tensor]) -> Operation:
    """An operation that moves pixels: ``move(clip, level, bicubic, fill)``."""

    def on_clip(clip: Tensor, level: float, fillcolor: tuple[int, ...], resample: tuple[int, ...]) -> Tensor:
        return move(clip, level, random.choice(resample) == Image.Resampling.BICUBIC, fillcolor)

    return on_clip


def shear_x(clip: Tensor, factor: float, *how: Any) -> Tensor:
    return along_rows(clip, factor * (np.arange(clip.shape[1]) + 0.5), *how)


def shear_y(clip: Tensor, factor: float, *how: Any) -> Tensor:
    return along_columns(clip, factor * (np.arange(clip.shape[2]) + 0.5), *how)


def translate_x(clip: Tensor, pixels: float, *how: Any) -> Tensor:
    return along_rows(clip, np.full(clip.shape[1], float(pixels)), *how)


def translate_y(clip: Tensor, pixels: float, *how: Any) -> Tensor:
    return along_columns(clip, np.full(clip.shape[2], float(pixels)), *how)


ON_CLIPS: dict[Callable[..., Image.Image], Operation] = {
    timm.auto_contrast: auto_contrast,
    timm.equalize: by_frame(timm.equalize),
    timm.invert: invert,
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
    timm.rotate: moved(turned),
    timm.shear_x: moved(shear_x),
    timm.shear_y: moved(shear_y),
    timm.translate_x_abs: moved(translate_x),
    timm.translate_y_abs: moved(translate_y),
    timm.translate_x_rel: moved(lambda clip, share, *how: translate_x(clip, share * clip.shape[2], *how)),
    timm.translate_y_rel: moved(lambda clip, share, *how: translate_y(clip, share * clip.shape[1], *how)),
}
