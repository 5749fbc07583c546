"""Random and fixed changes to clips: uint8 (T, H, W, 3) in and out, all frames of a clip alike.

Random ones draw from the global generators, which the dataset seeds for each sample.
"""

import random

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from everest.config import AugmentConfig, Experiment


def multi_scale_crop(clip: Tensor, size: int, scales: tuple[float, ...]) -> Tensor:
    """A crop whose sides are two of ``scales``, next to each other, of the shorter side; resized to ``size``.

    Placed at one of a 5x5 grid of places (Wang et al., Temporal Segment Networks: corners and scale jitter).
    """
    _, H, W, _ = clip.shape
    sides = [int(min(H, W) * scale) for scale in scales]
    first = random.randrange(len(sides))
    second = random.choice([i for i in range(len(sides)) if abs(i - first) <= 1])
    height, width = sides[first], sides[second]
    top = (H - height) * random.randrange(5) // 4
    left = (W - width) * random.randrange(5) // 4
    return _resize(clip[:, top : top + height, left : left + width], [size, size])


def random_resized_crop(clip: Tensor, size: int, area: tuple[float, float]) -> Tensor:
    crop = v2.RandomResizedCrop(size, scale=area, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return crop(_channels_first(clip)).permute(0, 2, 3, 1)


def rand_augment(clip: Tensor, policy: str) -> Tensor:
    """timm's RandAugment, frame by frame from the same random state."""
    colour = tuple(round(255 * mean) for mean in IMAGENET_DEFAULT_MEAN)
    augment = rand_augment_transform(policy, {"translate_const": int(min(clip.shape[1:3]) * 0.45), "img_mean": colour})
    python, numpy = random.getstate(), np.random.get_state()
    frames = []
    for frame in clip.numpy():
        random.setstate(python)
        np.random.set_state(numpy)
        frames.append(np.asarray(augment(Image.fromarray(frame))))
    return torch.from_numpy(np.stack(frames))


def flip(clip: Tensor) -> Tensor:
    return clip.flip(2) if random.random() < 0.5 else clip


def pretrain_transform(clip: Tensor, size: int, config: AugmentConfig) -> Tensor:
    clip = multi_scale_crop(clip, size, config.crop_scales)
    return (flip(clip) if config.flip else clip).contiguous()


def finetune_transform(clip: Tensor, size: int, config: AugmentConfig) -> Tensor:
    if config.rand_augment:
        clip = rand_augment(clip, config.rand_augment)
    clip = random_resized_crop(clip, size, config.crop_area)
    return (flip(clip) if config.flip else clip).contiguous()


def train_transform(clip: Tensor, config: Experiment) -> Tensor:
    """What the experiment's stage does to its training clips."""
    transform = pretrain_transform if config.stage == "pretrain" else finetune_transform
    return transform(clip, config.model.image_size, config.augment)


def evenly_placed_crop(clip: Tensor, size: int, where: float) -> Tensor:
    """A square of ``size``, the clip's shorter side, at ``where`` (0 … 1) along the longer one."""
    _, H, W, _ = clip.shape
    top, left = int((H - size) * where + 0.5), int((W - size) * where + 0.5)
    return clip[:, top : top + size, left : left + size].contiguous()


def scale_short_side(clip: Tensor, size: int) -> Tensor:
    return _resize(clip, [size])


def _resize(clip: Tensor, size: list[int]) -> Tensor:
    """To height and width, or to a shorter side."""
    scaled = v2.functional.resize(_channels_first(clip), size, InterpolationMode.BILINEAR, antialias=True)
    return scaled.permute(0, 2, 3, 1)


def _channels_first(clip: Tensor) -> Tensor:
    return clip.permute(0, 3, 1, 2)
