"""What a run's network computes in: while it trains, when it is tested, and when it is asked about a video."""

import torch

from everest.config import Experiment


def in_bfloat16(config: Experiment, device: torch.device) -> bool:
    """Whether products are of bfloat16."""
    wanted = config.optim.precision
    return _multiplies_bfloat16(device) if wanted == "auto" else wanted == "bfloat16"


def autocast(config: Experiment, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(config, device))


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it. A CPU without AVX512-BF16 and AMX is slower in it than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
