"""Fine-tuning and inference: a vision transformer over the tokens that move."""

from typing import Any

import torch
from torch import Tensor, nn

from everest.config import ClassifyConfig, ModelConfig
from everest.masks import METHODS
from everest.model.embed import TubeletEmbed
from everest.model.masks import ranking
from everest.model.masks.clip import Clip
from everest.model.positions import Grid, Positions
from everest.model.select import keep_important, take
from everest.model.vit import LayerNorm, transformer_blocks


class Classifier(nn.Module):
    """Only kept tokens enter the encoder; their mean, normalised, goes to a linear head (EVEREST, section 3.4)."""

    def __init__(self, config: ModelConfig, classify: ClassifyConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.classify = config, classify
        self.patch_embed = TubeletEmbed(config)
        self.positions = Positions(Grid.of(config), config.embed_dim)
        self.blocks = transformer_blocks(
            config.embed_dim, config.depth, config.num_heads, config.mlp_ratio, config.drop_path
        )
        self.fc_norm = LayerNorm(config.embed_dim)
        self.head = nn.Linear(config.embed_dim, num_classes)
        self.apply(_initialize)
        self.head.weight.data.mul_(0.001)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips, uint8 (B, T, H, W, 3) or normalised (B, 3, T, H, W) -> logits (B, classes)."""
        clip = Clip.cut(self.patch_embed, clips, self.classify.distance)
        kept = self.keep(clip)
        tubelets_BLP = clip.tubelets.flatten(1, 2)
        x = self.patch_embed(take(tubelets_BLP, kept))
        x = x + self.positions(kept, tubelets_BLP.shape[1]).to(x.dtype)
        return self.head(self.fc_norm(self.blocks(x).mean(dim=1)))

    def keep(self, clip: Clip) -> Tensor:
        """The tokens that enter the encoder: (B, K), ascending."""
        return classified_tokens(clip, self.classify, self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm groups parameters into layers for layer-wise learning rates; what matches nothing is the last."""
        return {"stem": r"^patch_embed", "blocks": [(r"^blocks\.(\d+)", None)]}


def classified_tokens(clip: Clip, classify: ClassifyConfig, training: bool) -> Tensor:
    """The tokens that enter the encoder, by ``classify.method``: (B, K), ascending.

    Where chance decides, it is drawn anew in training, and the same for every clip otherwise.
    """
    B, S, N = clip.shape
    kept = classify.kept(S * N)
    if kept == S * N:
        return torch.arange(kept, device=clip.tubelets.device).expand(B, kept)
    chance = None
    if METHODS[classify.method].by_chance:  # a draw that nothing needs would be left out of a compiled step
        chance = clip.chance() if training else clip.spread()
    scores = ranking(classify.method)(clip, chance)
    return keep_important(scores, kept).sort(dim=1).values


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
