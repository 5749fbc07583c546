"""The transformer's parts, as VideoMAE builds them: bias for queries and values only, norm eps 1e-6."""

from functools import partial

from timm.models.eva import EvaBlock
from torch import nn

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def transformer_blocks(dim: int, depth: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.ModuleList:
    """``depth`` pre-norm blocks; stochastic depth rises linearly to ``drop_path`` at the last."""
    rates = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
    return nn.ModuleList(
        EvaBlock(dim, num_heads, mlp_ratio=mlp_ratio, num_prefix_tokens=0, drop_path=rate, norm_layer=LayerNorm)
        for rate in rates
    )
