"""The bare matrix products of a step, in its shapes: the share of the step that they could be at most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Operand(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        repeated = any(stride == 0 < size - 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        stride = (tensor.contiguous() if repeated else tensor).stride()
        return cls(tuple(tensor.shape), stride, tensor.dtype)

    @classmethod
    def dense(cls, dtype: torch.dtype, *shape: int) -> Operand:
        return cls(shape, tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))), dtype)

    @property
    def turned(self) -> Operand:
        (*rest, rows, columns), (*steps, down, right) = self.shape, self.stride
        return Operand((*rest, columns, rows), (*steps, right, down), self.dtype)

    def make(self, device: torch.device) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=device).normal_()


class Products:
    """Those of one call of ``step``; ``run()`` does all of them again, and nothing else."""

    def __init__(self, step: Callable[[], object], device: torch.device) -> None:
        with _Noting() as noting:
            step()
        self.found = noting.found
        self._operands = [(left.make(device), right.make(device), count) for (left, right), count in self.found.items()]

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return sum(2 * count * math.prod(left.shape) * right.shape[-1] for (left, right), count in self.found.items())

    def run(self) -> None:
        for left, right, count in self._operands:
            multiply = torch.bmm if left.ndim == 3 else torch.mm
            for _ in range(count):
                multiply(left, right)


class _Noting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[tuple[Operand, Operand]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in {"mm", "bmm"}:
            self.found[Operand.of(args[0]), Operand.of(args[1])] += 1
        elif name in {"addmm", "baddbmm"}:
            self.found[Operand.of(args[1]), Operand.of(args[2])] += 1
        elif name.startswith("_scaled_dot_product"):
            backward = "backward" in name
            self._attention(args[1 if backward else 0], args[2 if backward else 1], backward)
        return func(*args, **(kwargs or {}))

    def _attention(self, queries: Tensor, keys: Tensor, backward: bool) -> None:
        """Each (B, heads, tokens, width): scores and sums of values, or the gradients of all four."""
        batch, (rows, width), columns = math.prod(queries.shape[:2]), queries.shape[2:], keys.shape[2]
        query = Operand.dense(queries.dtype, batch, rows, width)
        key = Operand.dense(queries.dtype, batch, columns, width)
        weights = Operand.dense(queries.dtype, batch, rows, columns)
        self.found.update(
            [(query, key.turned), (weights, key), (weights.turned, query), (weights.turned, query)]
            if backward
            else [(query, key.turned), (weights, key)]
        )
