"""The transformer's blocks, as VideoMAE builds them: bias for queries and values only, norm eps 1e-6."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everest.model.linear import gelu_linear, norm_linear

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Of what a norm gives: ``forward`` takes what comes before it."""

    k_bias: Tensor

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("k_bias", torch.zeros(dim), persistent=False)
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, norm: nn.LayerNorm, last: int) -> Tensor:
        """What the ``last`` tokens gather from all: (B, N, D) -> (B, last, D)."""
        bias = torch.cat([self.q_bias, self.k_bias, self.v_bias])
        qkv = norm_linear(x_BND, norm, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        gathered = F.scaled_dot_product_attention(q[:, :, -last:], k, v)
        return self.proj(gathered.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Of what a norm gives: ``forward`` takes what comes before it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return gelu_linear(norm_linear(x, norm, self.fc1.weight, self.fc1.bias), self.fc2)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, a clip goes without this path with probability ``rate``."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BND: Tensor) -> Tensor:
        if not self.training:
            return x_BND
        kept_B11 = x_BND.new_empty(x_BND.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x_BND * kept_B11.div_(1 - self.rate)


class Block(nn.Module):
    """Attention and an MLP, each after a norm and beside a path that skips it.

    Keeps 10 values for the backward pass a token and unit of width: the two skipping paths, queries,
    keys and values, what attention gathers, and what goes into GELU.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BND: Tensor, last: int | None = None) -> Tensor:
        """(B, N, D) -> the same of the ``last`` tokens, by default of all of them."""
        last = last or x_BND.shape[1]
        x = x_BND[:, -last:] + self.drop_path(self.attn(x_BND, self.norm1, last))
        return x + self.drop_path(self.mlp(x, self.norm2))


class Blocks(nn.ModuleList):
    """Blocks one after the other.

    With ``recompute`` a training step keeps only what goes into each block, and computes the block again, to the same
    numbers, in the backward pass (activation checkpointing).
    """

    recompute = False

    def forward(self, x_BND: Tensor, last: int | None = None) -> Tensor:
        """(B, N, D) -> the same of the ``last`` tokens, by default of all of them."""
        for block in self:
            args = (x_BND, last if block is self[-1] else None)
            if self.recompute and torch.is_grad_enabled():
                draws = not isinstance(block.drop_path, nn.Identity)
                x_BND = checkpoint(block, *args, use_reentrant=False, preserve_rng_state=draws)
            else:
                x_BND = block(*args)
        return x_BND


def transformer_blocks(dim: int, depth: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> Blocks:
    """``depth`` pre-norm blocks; stochastic depth rises linearly to ``drop_path`` at the last."""
    rates = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
    return Blocks(Block(dim, num_heads, mlp_ratio, rate) for rate in rates)


def set_recompute(model: nn.Module, recompute: bool) -> None:
    """Of all blocks of a model."""
    for module in model.modules():
        if isinstance(module, Blocks):
            module.recompute = recompute
