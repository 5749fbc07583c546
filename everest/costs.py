"""What an experiment costs, known before anything is started: computed with tensors that have shapes and no numbers."""

from typing import NamedTuple

from everest.config import Experiment
from everest.model.cost import count_flops, published_multiply_adds
from everest.model.memory import process_bytes, shapes_alone, step_bytes


class Costs(NamedTuple):
    parameters: int
    multiply_adds: float  # of a forward pass of one clip, all that is done here, selection too
    published: float  # the same as papers count: every token embedded once, every block whole, selection free
    step_flops: float  # operations of forward and backward pass of one clip, two a multiply-add
    kept_bytes: int  # for the backward pass, a clip
    peak_bytes: int  # of a process with optim.micro_batch clips: weights, gradients, AdamW's moments and the step


def costs(config: Experiment, num_classes: int, in_bfloat16: bool = False) -> Costs:
    """Of a training step. ``num_classes`` matters to fine-tuning alone. Draws nothing from any generator."""
    micro_batch = config.optim.micro_batch
    with shapes_alone(config, num_classes) as model:
        forward, step = count_flops(model, config)
        kept, peak = step_bytes(model.train(), micro_batch, in_bfloat16)
        return Costs(
            parameters=sum(each.numel() for each in model.parameters()),
            multiply_adds=forward / 2,
            published=published_multiply_adds(model),
            step_flops=step,
            kept_bytes=kept // micro_batch,
            peak_bytes=process_bytes(model, peak),
        )
