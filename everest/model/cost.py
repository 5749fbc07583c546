"""What a clip costs."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from everest.config import Experiment
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.frames import select_frames


def gflops_per_clip(model: PretrainModel | Classifier, config: Experiment) -> float:
    """Of a forward pass with all that selects frames and tokens, in 10^9 multiply-adds as papers count them.

    Measured on a black clip, on the model's device; leaves no trace in the model, nor in any generator.
    """
    return count_flops(model, config, backward=False)[0] / 2 / 1e9


def flops_to_train(model: PretrainModel | Classifier, config: Experiment) -> float:
    """Of forward and backward passes on one clip: operations, two a multiply-add, none of them done twice.

    The work that utilisation is a share of (PaLM, appendix B): recomputing does not count. Measured likewise.
    """
    return float(count_flops(model, config)[1])


def count_flops(model: PretrainModel | Classifier, config: Experiment, backward: bool = True) -> tuple[int, int]:
    """Operations of a forward pass of one clip, and of it and its backward pass."""
    device = model.patch_embed.proj.weight.device
    m, training = config.model, model.training
    frames = config.frames.candidates(m.num_frames, m.tubelet_size)
    clip = torch.zeros(1, frames, m.image_size, m.image_size, 3, dtype=torch.uint8, device=device)
    counter = FlopCounterMode(display=False)
    model.eval()
    with (
        torch.set_grad_enabled(backward),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        sdpa_kernel(SDPBackend.MATH),  # others multiply once more in the backward pass
        counter,
    ):
        if config.frames.select:
            clip = select_frames(model.patch_embed, clip, m.num_frames, config.frames, None)
        out = model(clip)
        forward = counter.get_total_flops()
        if backward:
            loss = out.sum() if isinstance(out, torch.Tensor) else out.loss
            torch.autograd.grad(loss, [parameter for parameter in model.parameters() if parameter.requires_grad])
    model.train(training)
    return forward, counter.get_total_flops()
