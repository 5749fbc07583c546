"""Random and fixed changes to clips: uint8 (T, H, W, 3) in and out, all frames of a clip alike.

Random ones draw from the global generators, which the dataset seeds for each sample.
"""

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from everest.config import Experiment
from everest.data.crop import Crop

_RATIO = (3 / 4, 4 / 3)  # of a random resized crop's sides, as everywhere


def random_crop(height: int, width: int, config: Experiment) -> Crop:
    """Of a picture of that size, as the experiment's stage takes it."""
    if config.stage == "pretrain":
        return multi_scale_crop(height, width, config.augment.crop_scales)
    return random_resized_crop(height, width, config.augment.crop_area)


def multi_scale_crop(height: int, width: int, scales: tuple[float, ...]) -> Crop:
    """Its sides are two of ``scales``, next to each other, of the shorter side.

    Placed at one of a 5x5 grid of places (Wang et al., Temporal Segment Networks: corners and scale jitter).
    """
    short = min(height, width)
    first = random.randrange(len(scales))
    second = random.choice([i for i in range(len(scales)) if abs(i - first) <= 1])
    tall, wide = short * scales[first] / height, short * scales[second] / width
    top, left = ((1 - side) * random.randrange(5) / 4 for side in (tall, wide))
    return Crop(left, top, wide, tall)


def random_resized_crop(height: int, width: int, area: tuple[float, float]) -> Crop:
    """Its share of the picture and its sides' ratio are drawn until it fits in; after ten draws, from the middle.

    Draws as torchvision's RandomResizedCrop (Szegedy et al. 2015), to the same crop.
    """
    least, most = torch.tensor(_RATIO).log().tolist()
    for _ in range(10):
        pixels = height * width * torch.empty(1).uniform_(*area).item()
        ratio = torch.empty(1).uniform_(least, most).exp().item()
        wide, tall = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top, left = (int(torch.randint(room + 1, (1,))) for room in (height - tall, width - wide))
            return Crop(left / width, top / height, wide / width, tall / height)
    wide, tall = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    return Crop((width - wide) // 2 / width, (height - tall) // 2 / height, wide / width, tall / height)


def cut_out(clip: Tensor, crop: Crop, size: int) -> Tensor:
    """That part of each frame, scaled to a square of ``size``."""
    left, top, wide, tall = crop.box(*clip.shape[1:3])
    return _resize(clip[:, top : top + tall, left : left + wide], (size, size))


def changed(clip: Tensor, config: Experiment) -> Tensor:
    """What the experiment's stage does to its training clips beside cutting them."""
    if config.augment.flip:
        clip = flip(clip)
    if config.stage == "finetune" and config.augment.rand_augment:
        from everest.data.rand_augment import rand_augment  # drags in timm

        clip = rand_augment(clip, config.augment.rand_augment)
    return clip.contiguous()


def flip(clip: Tensor) -> Tensor:
    return clip.flip(2) if random.random() < 0.5 else clip


def evenly_placed_crop(clip: Tensor, size: int, where: float) -> Tensor:
    """A square of ``size``, the clip's shorter side, at ``where`` (0 … 1) along the longer one."""
    _, H, W, _ = clip.shape
    top, left = int((H - size) * where + 0.5), int((W - size) * where + 0.5)
    return clip[:, top : top + size, left : left + size].contiguous()


def scale_short_side(clip: Tensor, size: int) -> Tensor:
    _, H, W, _ = clip.shape
    return _resize(clip, (size * H // min(H, W), size * W // min(H, W)))


def _resize(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """To height and width."""
    if clip.shape[1:3] == size:
        return clip
    scaled = F.interpolate(clip.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
    return scaled.permute(0, 2, 3, 1)
