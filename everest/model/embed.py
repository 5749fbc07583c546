"""A clip as tubelets, their linear embedding, and where each stands."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everest.config import ModelConfig


class TubeletEmbed(nn.Module):
    """Cuts clips into tubelets and embeds them linearly.

    A convolution that never overlaps is a matrix product over tubelets; written as one, it can embed
    just the tokens that are needed (EVEREST, section 3.1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tubelet_size, self.patch_size = config.tubelet_size, config.patch_size
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.embed_dim, kernel_size=size, stride=size)

    def cut(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> tubelets (B, S, N, P), P in (channel, time, y, x) order, N in (row, column) order.

        Raises ValueError where T, H or W is not a multiple of the tubelet.
        """
        B, C, T, H, W = video.shape
        t, p = self.tubelet_size, self.patch_size
        if C != 3 or T % t or H % p or W % p:
            raise ValueError(
                f"video of shape {tuple(video.shape)} is not (B, 3, T, H, W) with T a multiple of {t}, H and W of {p}"
            )
        tubelets = video.reshape(B, C, T // t, t, H // p, p, W // p, p).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return tubelets.reshape(B, T // t, (H // p) * (W // p), -1)

    def forward(self, tubelets: Tensor) -> Tensor:
        """(..., P) -> (..., D)."""
        return F.linear(tubelets, self.proj.weight.flatten(1), self.proj.bias)

    def exact(self, tubelets: Tensor) -> Tensor:
        """The embedding without gradient and in float32: what importance is measured on.

        In bfloat16 too many distances coincide to rank tokens by them.
        """
        with torch.no_grad(), torch.autocast(tubelets.device.type, enabled=False):
            weight, bias = self.proj.weight.flatten(1).float(), self.proj.bias
            return F.linear(tubelets.float(), weight, None if bias is None else bias.float())


@lru_cache(maxsize=16)
def sinusoid_positions(tokens: int, dim: int, device: torch.device) -> Tensor:
    """Fixed positions (tokens, dim): sine of p / 10000^(2*(i//2)/D) in even dimensions i, cosine in odd ones."""
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    dimension = torch.arange(dim)
    angle = position / 10000 ** (2 * (dimension // 2) / dim).double()
    return torch.where(dimension % 2 == 0, angle.sin(), angle.cos()).float().to(device)
