"""Pre-training: an encoder sees a few of the kept tokens, a light decoder reconstructs the rest of them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everest.config import MaskConfig, ModelConfig
from everest.model.embed import TubeletEmbed
from everest.model.masks import ranking, splitting
from everest.model.masks.clip import Clip
from everest.model.positions import Grid, Positions
from everest.model.select import keep_important, split_kept, take
from everest.model.targets import reconstruction_target
from everest.model.vit import LayerNorm, transformer_blocks


class PretrainOutput(NamedTuple):
    """What one forward pass gives; indices count a clip's tokens in (step, row, column) order."""

    loss: Tensor
    prediction: Tensor  # (B, M, P)
    target: Tensor  # (B, M, P)
    kept: Tensor  # (B, K), most important first where the method ranks them
    visible: Tensor  # (B, V), ascending
    hidden: Tensor  # (B, M), ascending


class Encoder(nn.Module):
    """Vision transformer over the visible tokens, with a final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_embed = TubeletEmbed(config)
        self.positions = Positions(Grid.of(config), config.embed_dim)
        self.blocks = transformer_blocks(
            config.embed_dim, config.depth, config.num_heads, config.mlp_ratio, config.drop_path
        )
        self.norm = LayerNorm(config.embed_dim) if config.encoder_norm else nn.Identity()

    def forward(self, tubelets_BLP: Tensor, visible_BV: Tensor) -> Tensor:
        x = self.patch_embed(take(tubelets_BLP, visible_BV))
        x = x + self.positions(visible_BV, tubelets_BLP.shape[1]).to(x.dtype)
        return self.norm(self.blocks(x))


class Decoder(nn.Module):
    """Narrow transformer that ends with the pixels of the hidden tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.decoder_embed_dim
        self.positions = Positions(Grid.of(config), dim)
        self.blocks = transformer_blocks(dim, config.decoder_depth, config.decoder_num_heads, config.mlp_ratio)
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, 3 * config.tubelet_size * config.patch_size**2)

    def forward(self, x: Tensor, hidden: int) -> Tensor:
        """(B, V+M, D') with the hidden tokens last -> their pixels (B, M, P)."""
        return self.head(self.norm(self.blocks(x, hidden)))


class PretrainModel(nn.Module):
    """The masked autoencoder, by default on redundancy-robust tokens (EVEREST, section 3)."""

    def __init__(self, config: ModelConfig, mask: MaskConfig) -> None:
        super().__init__()
        self.config, self.mask = config, mask
        self.encoder = Encoder(config)
        self.encoder_to_decoder = nn.Linear(config.embed_dim, config.decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_embed_dim))
        self.decoder = Decoder(config)
        self.apply(_initialize)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    @property
    def patch_embed(self) -> TubeletEmbed:
        return self.encoder.patch_embed

    def forward(
        self, clips: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> PretrainOutput:
        """Reconstructs what is kept but hidden of clips, uint8 (B, T, H, W, 3) or normalised (B, 3, T, H, W).

        ``noise`` (B, K), uniform, decides which kept tokens are visible where the method ranks them; None draws it.
        What is drawn comes from ``generator``, on the clips' device; None: from torch's own.
        Only visible tokens are embedded with gradient, and only hidden ones get targets. Raises ValueError where
        the clip does not divide into tubelets or is too small for the ratios.
        """
        clip = Clip.cut(self.patch_embed, clips, self.mask.distance, generator)
        kept, visible, hidden = self.choose(clip, noise)

        tubelets_BLP = clip.tubelets.flatten(1, 2)
        prediction = self.reconstruct(tubelets_BLP, visible, hidden)
        target = reconstruction_target(self.patch_embed.pixels.unit(take(tubelets_BLP, hidden)))
        return PretrainOutput(F.mse_loss(prediction.float(), target), prediction, target, kept, visible, hidden)

    def choose(self, clip: Clip, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Which tokens are kept (B, K), and which of these visible (B, V) and hidden (B, M), by ``mask.method``."""
        _, S, N = clip.shape
        method, counts = self.mask.row, self.mask.counts(S, N)
        if not method.ranks:
            visible, hidden = splitting(self.mask.method)(clip, counts.visible, counts.hidden)
            return torch.cat([visible, hidden], dim=1), visible, hidden
        scores = ranking(self.mask.method)(clip, clip.chance() if method.by_chance else None)
        kept = keep_important(scores, counts.kept)
        if noise is None:
            noise = clip.uniform(*kept.shape)
        return kept, *split_kept(kept, counts.visible, noise)

    def reconstruct(self, tubelets_BLP: Tensor, visible_BV: Tensor, hidden_BM: Tensor) -> Tensor:
        """Predicts the normalised pixels of the hidden tokens from the visible ones: (B, M, P)."""
        x_BVD = self.encoder_to_decoder(self.encoder(tubelets_BLP, visible_BV))
        mask_BMD = self.mask_token.expand(*hidden_BM.shape, -1).to(x_BVD.dtype)
        index_BK = torch.cat([visible_BV, hidden_BM], dim=1)
        positions_BKD = self.decoder.positions(index_BK, tubelets_BLP.shape[1]).to(x_BVD.dtype)
        return self.decoder(torch.cat([x_BVD, mask_BMD], dim=1) + positions_BKD, hidden_BM.shape[1])


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
