"""What a run's network computes in: while it trains, when it is tested, and when it is asked about a video."""

import torch

from everest.config import Experiment


def in_bfloat16(config: Experiment, device: torch.device) -> bool:
    """Whether products are of bfloat16; ``auto`` asks the device."""
    wanted = config.optim.precision
    if wanted == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return wanted == "bfloat16"


def autocast(config: Experiment, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(config, device))
