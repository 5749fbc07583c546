"""What an experiment costs, known before anything is started: computed with tensors that have shapes and no numbers."""

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from everest.config import Experiment
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.cost import count_flops, noting_kept, published_multiply_adds
from everest.model.registry import classifier, pretrain_model
from everest.model.vit import set_recompute

#: Bytes of a parameter with its gradient and AdamW's two moments, float32.
_STATE_BYTES = 16


class Costs(NamedTuple):
    parameters: int
    multiply_adds: float  # of a forward pass of one clip, all that is done here, selection too
    published: float  # the same as papers count: every token embedded once, every block whole, selection free
    step_flops: float  # operations of forward and backward pass of one clip, two a multiply-add
    kept_bytes: int  # for the backward pass, a clip
    peak_bytes: int  # of a process with optim.micro_batch clips: weights, gradients, AdamW's moments and the step


def costs(config: Experiment, num_classes: int, in_bfloat16: bool = False) -> Costs:
    """Of a training step. ``num_classes`` matters to fine-tuning alone. Draws nothing from any generator."""
    with torch.device("meta"):
        model = pretrain_model(config) if config.stage == "pretrain" else classifier(config, num_classes)
    set_recompute(model, config.optim.recompute)
    micro_batch, parameters = config.optim.micro_batch, sum(each.numel() for each in model.parameters())
    with torch.random.fork_rng([]), FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        forward, step = count_flops(model, config)
        kept, peak = step_bytes(model.train(), micro_batch, in_bfloat16)
    return Costs(
        parameters=parameters,
        multiply_adds=forward / 2,
        published=published_multiply_adds(model),
        step_flops=step,
        kept_bytes=kept // micro_batch,
        peak_bytes=parameters * _STATE_BYTES + peak,
    )


def step_bytes(model: PretrainModel | Classifier, clips: int, in_bfloat16: bool) -> tuple[int, int]:
    """What autograd keeps of a forward pass, weights left out; the most that a step has at once, gradients left out."""
    m = model.config
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(_forget)
    with _Living({each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}) as living:
        with noting_kept(model) as kept, torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            out = model(torch.zeros(clips, m.num_frames, m.image_size, m.image_size, 3, dtype=torch.uint8))
            loss = out.sum() if isinstance(out, Tensor) else out.loss
        held = sum(kept.values())
        loss.backward()
    return held, living.most


def _forget(parameter: Tensor) -> None:
    """Its gradient, as if it had been added to one that is there all the time."""
    parameter.grad = None


class _Living(TorchDispatchMode):
    """Counts the storages that are made, until they go; those ``there`` before do not count."""

    def __init__(self, there: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known = set(there)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(Tensor, self._note, out)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
