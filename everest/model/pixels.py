"""Pixels as stored (uint8), as targets ([0, 1]) and as the network takes them (ImageNet-normalised)."""

import torch
from torch import Tensor, nn

#: Of ImageNet's red, green and blue in [0, 1].
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pixels(nn.Module):
    """Turns rows of ``values`` numbers, channels last, into what is needed of them.

    Rows are uint8 as stored, or floats that are normalised already. The statistics are buffers that no
    checkpoint holds, as long as a row, so that nothing is broadcast three by three.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, values: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).repeat(values // 3), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).repeat(values // 3), persistent=False)

    def normalized(self, rows: Tensor) -> Tensor:
        """(..., values) as the network takes them."""
        if rows.dtype != torch.uint8:
            return rows
        return rows.float().div_(255).sub_(self.mean).div_(self.deviation)

    def unit(self, rows: Tensor) -> Tensor:
        """(..., values) in [0, 1], float32."""
        if rows.dtype == torch.uint8:
            return rows.float().div_(255)
        return rows.float() * self.deviation + self.mean
