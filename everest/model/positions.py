"""Where each token stands."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everest.config import ModelConfig


class Grid(NamedTuple):
    """Of a clip's tokens."""

    steps: int
    across: int  # places along height and width

    @classmethod
    def of(cls, config: ModelConfig) -> "Grid":
        return cls(config.steps, config.image_size // config.patch_size)

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.across} x {self.across} places"


class Positions(nn.Module):
    """The fixed positions of a clip's tokens: a buffer that no checkpoint holds.

    Those of weights that learned on another grid are stretched over this one; ``origin`` (2), that grid, is then a
    buffer that every checkpoint holds.
    """

    table: Tensor
    origin: Tensor | None

    def __init__(self, grid: Grid, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("table", stretched_positions(grid, grid, dim), persistent=False)
        self.register_buffer("origin", None)

    def forward(self, index: Tensor, tokens: int) -> Tensor:
        """Indices (B, K) into a clip of ``tokens`` -> (B, K, D). Clips longer than the model's own are taken too.

        Raises ValueError for these where positions are stretched.
        """
        table = self.table
        if tokens > len(table):
            if self.origin is not None:
                raise ValueError(f"a clip of {tokens} tokens, but positions are stretched over {len(table)}")
            table = sinusoid_positions(tokens, table.shape[1], table.device)
        return table[index]

    def stretch(self, origin: Grid) -> None:
        """From now on they are those of ``origin``, stretched; its own again where that is its own grid."""
        table = self.table
        self.table = stretched_positions(origin, self.grid, table.shape[1]).to(table.device)
        self.origin = None if origin == self.grid else torch.tensor(origin, device=table.device)


def stretched_positions(origin: Grid, grid: Grid, dim: int) -> Tensor:
    """(tokens of ``grid``, dim): the sinusoids of ``origin``, interpolated linearly along time, height and width."""
    table = sinusoid_positions(origin.steps * origin.across**2, dim)
    if origin == grid:
        return table
    places = table.T.reshape(1, dim, origin.steps, origin.across, origin.across)
    size = (grid.steps, grid.across, grid.across)
    return F.interpolate(places, size, mode="trilinear").reshape(dim, -1).T.contiguous()


def sinusoid_positions(tokens: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(tokens, dim): sine of p / 10000^(2*(i//2)/D) in even dimensions i, cosine in odd ones."""
    position = torch.arange(tokens, dtype=torch.float64, device=device)[:, None]
    dimension = torch.arange(dim, device=device)
    angle = position / 10000 ** (2 * (dimension // 2) / dim).double()
    return torch.where(dimension % 2 == 0, angle.sin(), angle.cos()).float()
