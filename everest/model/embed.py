"""A clip as tubelets, and their linear embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everest.config import ModelConfig
from everest.model.pixels import Pixels


class TubeletEmbed(nn.Module):
    """Cuts clips into tubelets and embeds them linearly.

    A convolution that never overlaps is a matrix product over tubelets; written as one, it can embed
    just the tokens that are needed (EVEREST, section 3.1). Tubelets stay what the clip is, uint8 or
    normalised floats: pixels are normalised where they are taken.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tubelet_size, self.patch_size = config.tubelet_size, config.patch_size
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.embed_dim, kernel_size=size, stride=size)
        self.pixels = Pixels(3 * config.tubelet_size * config.patch_size**2)

    def cut(self, clips: Tensor) -> Tensor:
        """Tubelets (B, S, N, P), P in (time, y, x, channel) order, N in (row, column) order.

        ``clips`` are uint8 (B, T, H, W, 3) as decoded, or floats (B, 3, T, H, W), normalised. Raises
        ValueError for another shape, or where T, H or W is not a multiple of the tubelet.
        """
        t, p = self.tubelet_size, self.patch_size
        stored = clips.dtype == torch.uint8
        frames = clips if stored or clips.ndim != 5 else clips.permute(0, 2, 3, 4, 1)
        if (
            frames.ndim != 5
            or frames.shape[4] != 3
            or frames.shape[1] % t
            or frames.shape[2] % p
            or frames.shape[3] % p
        ):
            layout = "(B, T, H, W, 3)" if stored else "(B, 3, T, H, W)"
            raise ValueError(
                f"video of shape {tuple(clips.shape)} is not {layout} with T a multiple of {t}, H and W of {p}"
            )
        B, T, H, W, _ = frames.shape
        tubelets = frames.reshape(B, T // t, t, H // p, p, W // p, p, 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return tubelets.reshape(B, T // t, (H // p) * (W // p), -1)

    def forward(self, tubelets: Tensor) -> Tensor:
        """(..., P) -> (..., D)."""
        return F.linear(self.pixels.normalized(tubelets), self._weight(), self.proj.bias)

    @torch.no_grad()
    def exact(self, tubelets: Tensor) -> Tensor:
        """The embedding without gradient and in float32, whatever the precision of the step."""
        with torch.autocast(tubelets.device.type, enabled=False):
            bias = None if self.proj.bias is None else self.proj.bias.float()
            return F.linear(self.pixels.normalized(tubelets).float(), self._weight().float(), bias)

    @torch.no_grad()
    def changes(self, tubelets: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """What embeddings change by from step to step: (B, S, N, P) -> (B, S-1, N, D), float32, no gradient.

        Pixels are subtracted first, so that bias and mean cancel and still pixels change nothing at all.
        Differences of uint8 are exact in bfloat16; multiplied in it with sums in float32 they rank tokens
        as float64 does, and so they are on a GPU. Sums in bfloat16 would not: too many of them coincide.
        """
        stored = tubelets.dtype == torch.uint8
        if precision is None:
            precision = torch.bfloat16 if stored and tubelets.is_cuda else torch.float32
        with torch.autocast(tubelets.device.type, enabled=False):
            weight = self._weight().float()
            if stored:
                weight = weight / (255 * self.pixels.deviation)
            values = tubelets.to(precision)
            return _product(values[:, 1:] - values[:, :-1], weight.to(precision))

    def _weight(self) -> Tensor:
        """(D, P), P in the order of tubelets."""
        return self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows (..., P) by weight (D, P) -> (..., D) with sums in float32."""
    if rows.is_cuda and rows.dtype == torch.bfloat16:
        product = torch.mm(rows.flatten(0, -2), weight.T, out_dtype=torch.float32)
        return product.unflatten(0, rows.shape[:-1])
    return F.linear(rows.float(), weight.float())
