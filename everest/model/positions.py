"""Where each token stands."""

import torch
from torch import Tensor, nn


class Positions(nn.Module):
    """The fixed positions of a clip's tokens: a buffer that no checkpoint holds."""

    table: Tensor

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoid_positions(tokens, dim), persistent=False)

    def forward(self, index: Tensor, tokens: int) -> Tensor:
        """Indices (B, K) into a clip of ``tokens`` -> (B, K, D). Clips longer than the model's own are taken too."""
        table = self.table
        if tokens > len(table):
            table = sinusoid_positions(tokens, table.shape[1], table.device)
        return table[index]


def sinusoid_positions(tokens: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(tokens, dim): sine of p / 10000^(2*(i//2)/D) in even dimensions i, cosine in odd ones."""
    position = torch.arange(tokens, dtype=torch.float64, device=device)[:, None]
    dimension = torch.arange(dim, device=device)
    angle = position / 10000 ** (2 * (dimension // 2) / dim).double()
    return torch.where(dimension % 2 == 0, angle.sin(), angle.cos()).float()
