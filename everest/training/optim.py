"""AdamW, its parameter groups and its learning rate, as in MAE, VideoMAE and EVEREST."""

import math
from typing import Any

import torch
from torch import nn

from everest.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """No weight decay for one-dimensional parameters and the mask token; lower layers learn slower."""
    exempt = {"mask_token"}
    if layer_decay < 1:
        from timm.optim import param_groups_layer_decay  # takes seconds to import

        return param_groups_layer_decay(model, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay)
    kept, decayed = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in model.named_parameters():
        (kept if parameter.ndim <= 1 or name in exempt else decayed).append(parameter)
    return [{"params": kept, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW at the peak learning rate, ``config.lr`` scaled by the total batch over 256."""
    groups = parameter_groups(model, config.weight_decay, config.layer_decay)
    return torch.optim.AdamW(groups, lr=config.lr * config.batch_size / 256, betas=config.betas, fused=True)


class CosineSchedule:
    """Linear warm-up, then half a cosine, by step; a pure function of the step, so there is no state to save."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, warmup: int, start: float, end: float) -> None:
        self._optimizer, self._steps, self._warmup, self._start, self._end = optimizer, steps, warmup, start, end
        self._peak: float = optimizer.defaults["lr"]

    def set(self, step: int) -> None:
        """Sets the learning rates for ``step``; the warm-up's last step and the cosine's first are the peak."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._at(step) * group.get("lr_scale", 1)

    def _at(self, step: int) -> float:
        if step < self._warmup - 1:
            return self._start + step * (self._peak - self._start) / (self._warmup - 1)
        done = max(0, step - self._warmup) / max(1, self._steps - self._warmup)
        return self._end + (self._peak - self._end) * (1 + math.cos(math.pi * done)) / 2
