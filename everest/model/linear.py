"""Linear layers after a norm or GELU that keep what came before it, and compute the rest again in the backward pass.

Autograd would keep the layer's input too, which costs memory; a norm or GELU costs next to nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


def norm_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear(norm(x), weight, bias)``. Under autocast the norm too has inputs and outputs of low precision."""
    result: Tensor = _NormLinear.apply(*_autocast(x, norm.weight, norm.bias, weight, bias), norm.eps)
    return result


def gelu_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """``linear(F.gelu(x))``."""
    result: Tensor = _GeluLinear.apply(*_autocast(x, linear.weight, linear.bias))
    return result


class _NormLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, scale.shape, scale, shift, eps)
        ctx.save_for_backward(x, mean, rstd, scale, shift, weight)
        ctx.eps = eps
        return F.linear(normed, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, scale, shift, weight = ctx.saved_tensors
        normed = torch.native_layer_norm(x, scale.shape, scale, shift, ctx.eps)[0]
        before, weights, biases = _linear_backward(gradients[0], normed, weight)
        x, scale, shift = torch.ops.aten.native_layer_norm_backward(
            before, x, scale.shape, mean, rstd, scale, shift, [True, True, True]
        )
        return x, scale, shift, weights, biases, None


class _GeluLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        before, weights, biases = _linear_backward(gradients[0], F.gelu(x), weight)
        return torch.ops.aten.gelu_backward(before, x), weights, biases


def _linear_backward(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``F.linear(x, weight, bias)`` by x, weight and bias."""
    rows = gradient.flatten(0, -2)
    return gradient @ weight, rows.T @ x.flatten(0, -2), rows.sum(0)


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As they are, or in autocast's precision: a Function's own operations are not cast on their way back."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
