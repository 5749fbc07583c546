"""AdamW, its parameter groups and its learning rate, as in MAE, VideoMAE and EVEREST."""

from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from everest.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """No weight decay for one-dimensional parameters and the mask token; lower layers learn slower."""
    exempt = {"mask_token"}
    groups: list[dict[str, Any]] = (
        param_groups_layer_decay(model, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay)
        if layer_decay < 1
        else param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
    )
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW at the peak learning rate, ``config.lr`` scaled by the total batch over 256."""
    groups = parameter_groups(model, config.weight_decay, config.layer_decay)
    return torch.optim.AdamW(groups, lr=config.lr * config.batch_size / 256, betas=config.betas, fused=True)


class CosineSchedule:
    """Linear warm-up, then half a cosine, by step; a pure function of the step, so there is no state to save."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int, warmup: int, start: float, end: float) -> None:
        self._warmup = warmup
        self._scheduler = CosineLRScheduler(
            optimizer,
            t_initial=max(1, steps - warmup),
            lr_min=end,
            warmup_t=max(0, warmup - 1),
            warmup_lr_init=start,
            warmup_prefix=True,
            t_in_epochs=False,
        )

    def set(self, step: int) -> None:
        """Sets the learning rates for ``step``; the warm-up's last step and the cosine's first are the peak."""
        self._scheduler.step_update(step if step < self._warmup or not self._warmup else step - 1)
