"""What the decoder is to predict: the pixels of hidden tubelets, normalised one by one."""

from torch import Tensor

from everest.model.pixels import unnormalize


def tubelet_pixels(tubelets_BMP: Tensor, tubelet_size: int, patch_size: int) -> Tensor:
    """Normalised tubelets (B, M, P) in (channel, time, y, x) order -> pixels in [0, 1], (B, M, t*y*x, 3)."""
    B, M, _ = tubelets_BMP.shape
    pixels = unnormalize(tubelets_BMP.reshape(B, M, 3, tubelet_size, patch_size, patch_size))
    return pixels.permute(0, 1, 3, 4, 5, 2).reshape(B, M, -1, 3)


def normalize_tubelets(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per tubelet and channel: (B, M, t*y*x, 3) -> the same with mean 0 and deviation 1, the mean, the deviation.

    The variance is the unbiased one; 1e-6 is added to the deviation (MAE, section 4; VideoMAE).
    """
    mean = pixels.mean(dim=2, keepdim=True)
    deviation = pixels.var(dim=2, unbiased=True, keepdim=True).sqrt() + 1e-6
    return (pixels - mean) / deviation, mean, deviation


def reconstruction_target(tubelets_BMP: Tensor, tubelet_size: int, patch_size: int) -> Tensor:
    """(B, M, P) as cut -> the target (B, M, P), each tubelet flattened as (time, y, x, channel)."""
    return normalize_tubelets(tubelet_pixels(tubelets_BMP, tubelet_size, patch_size))[0].flatten(2)
