"""Pixels as stored (uint8), as targets ([0, 1]) and as the network takes them (ImageNet-normalised)."""

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor


def normalize(frames: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) as decoded -> float (B, 3, T, H, W), ImageNet-normalised, on the same device."""
    mean, std = _statistics(frames.device)
    video = frames.permute(0, 4, 1, 2, 3).float().div_(255)
    return video.sub_(mean[:, None, None, None]).div_(std[:, None, None, None])


def unnormalize(patches: Tensor) -> Tensor:
    """Normalised tubelets (B, M, 3, t, y, x) -> the same in [0, 1]."""
    mean, std = _statistics(patches.device)
    return patches.float() * std[:, None, None, None] + mean[:, None, None, None]


def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(IMAGENET_DEFAULT_MEAN, device=device), torch.tensor(IMAGENET_DEFAULT_STD, device=device)
