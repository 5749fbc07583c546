"""What the decoder is to predict: the pixels of hidden tubelets, normalised one by one."""

from torch import Tensor


def normalize_tubelets(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per tubelet and channel: (B, M, t*y*x, 3) -> the same with mean 0 and deviation 1, the mean, the deviation.

    The variance is the unbiased one; 1e-6 is added to the deviation (MAE, section 4; VideoMAE).
    """
    mean = pixels.mean(dim=2, keepdim=True)
    deviation = pixels.var(dim=2, unbiased=True, keepdim=True).sqrt() + 1e-6
    return (pixels - mean) / deviation, mean, deviation


def reconstruction_target(unit_BMP: Tensor) -> Tensor:
    """Tubelets (B, M, P) with pixels in [0, 1] -> the target (B, M, P), in the same (time, y, x, channel) order."""
    return normalize_tubelets(unit_BMP.unflatten(-1, (-1, 3)))[0].flatten(2)
