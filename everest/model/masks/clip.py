"""What a method sees of clips."""

from typing import NamedTuple

import torch
from torch import Tensor

from everest.config import Distance
from everest.model.embed import TubeletEmbed


class Clip(NamedTuple):
    """Clips cut into tubelets, before anything of them is embedded."""

    embed: TubeletEmbed
    tubelets: Tensor  # (B, S, N, P), uint8 or normalised
    rows: int
    columns: int  # N = rows * columns
    distance: Distance
    generator: torch.Generator | None = None  # None: torch's own

    @classmethod
    def cut(
        cls, embed: TubeletEmbed, clips: Tensor, distance: Distance, generator: torch.Generator | None = None
    ) -> "Clip":
        """Of clips, uint8 (B, T, H, W, 3) or normalised (B, 3, T, H, W). Raises ValueError as TubeletEmbed.cut does."""
        tubelets = embed.cut(clips)
        height = clips.shape[2] if clips.dtype == torch.uint8 else clips.shape[3]
        rows = height // embed.patch_size
        return cls(embed, tubelets, rows, tubelets.shape[2] // rows, distance, generator)

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, S, N."""
        B, S, N, _ = self.tubelets.shape
        return B, S, N

    def chance(self) -> Tensor:
        """Uniform numbers, one a token, (B, S, N)."""
        return self.uniform(*self.shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers of that shape."""
        return torch.rand(shape, device=self.tubelets.device, generator=self.generator)

    def spread(self) -> Tensor:
        """The same numbers for every clip, (B, S, N), evenly spread over the tokens: multiples of the golden ratio."""
        B, S, N = self.shape
        count = torch.arange(S * N, device=self.tubelets.device, dtype=torch.float64)
        return (count * ((5**0.5 - 1) / 2) % 1).float().reshape(S, N).expand(B, S, N)
