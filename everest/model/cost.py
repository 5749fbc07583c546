"""What a clip costs."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from everest.config import Experiment, ModelConfig
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.frames import select_frames
from everest.model.memory import kept_per_clip, process_bytes, shapes_alone, step_bytes


def cost_numbers(model: PretrainModel | Classifier, config: Experiment, in_bfloat16: bool = False) -> dict[str, float]:
    """As metrics of a run: of one clip a forward pass, as done here and as papers count it, and a training step;
    what a clip and a process take of memory."""
    forward, step = count_flops(model, config)
    return {
        "cost/parameters_m": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "cost/gflops_per_clip": forward / 2 / 1e9,
        "cost/published_gflops_per_clip": published_multiply_adds(model) / 1e9,
        "cost/step_gflops_per_clip": step / 1e9,
        "cost/kept_mb_per_clip": kept_per_clip(model, config, in_bfloat16) / 1e6,
        "cost/peak_mb_per_process": _peak_bytes(model, config, in_bfloat16) / 1e6,
    }


def _peak_bytes(model: PretrainModel | Classifier, config: Experiment, in_bfloat16: bool) -> int:
    """Of shapes alone, as ``everest cost`` counts them: at the end of a run no memory is asked for."""
    with shapes_alone(config, model.head.out_features if isinstance(model, Classifier) else 0) as outline:
        _, peak = step_bytes(outline.train(), config.optim.micro_batch, in_bfloat16)
        return process_bytes(outline, peak)


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


def published_multiply_adds(model: PretrainModel | Classifier) -> float:
    """Of a forward pass as papers count it, by the shapes alone."""
    m = model.config
    pixels = 3 * m.tubelet_size * m.patch_size**2
    embedding = m.tokens * pixels * m.embed_dim
    if isinstance(model, Classifier):
        kept = model.classify.kept(m.tokens)
        return embedding + _blocks(m, kept, m.embed_dim, m.depth) + m.embed_dim * model.head.out_features
    counts = model.mask.counts(m.steps, m.places)
    encoder = _blocks(m, counts.visible, m.embed_dim, m.depth) + counts.visible * m.embed_dim * m.decoder_embed_dim
    decoder = _blocks(m, counts.visible + counts.hidden, m.decoder_embed_dim, m.decoder_depth)
    return embedding + encoder + decoder + counts.hidden * m.decoder_embed_dim * pixels


def _blocks(m: ModelConfig, tokens: int, width: int, depth: int) -> float:
    return depth * ((4 + 2 * m.mlp_ratio) * tokens * width**2 + 2 * tokens**2 * width)
