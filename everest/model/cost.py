"""What a clip costs."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from everest.config import Experiment
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.frames import select_frames


def gflops_per_clip(model: PretrainModel | Classifier, config: Experiment) -> float:
    """Of a forward pass with all that selects frames and tokens, in 10^9 multiply-adds as papers count them.

    Measured on a black clip, on the model's device; leaves no trace in the model, nor in any generator.
    """
    device = model.patch_embed.proj.weight.device
    m, training = config.model, model.training
    frames = config.frames.candidates(m.num_frames, m.tubelet_size)
    clip = torch.zeros(1, frames, m.image_size, m.image_size, 3, dtype=torch.uint8, device=device)
    counter = FlopCounterMode(display=False)
    model.eval()
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []), counter:
        if config.frames.select:
            clip = select_frames(model.patch_embed, clip, m.num_frames, config.frames, None)
        model(clip)
    model.train(training)
    return counter.get_total_flops() / 2 / 1e9
