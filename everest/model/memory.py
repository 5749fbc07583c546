"""What a training step takes of memory: what autograd keeps for the backward pass, and the most at once."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from everest.config import Experiment
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.registry import classifier, pretrain_model
from everest.model.vit import set_recompute

#: Bytes of a parameter with its gradient and AdamW's two moments, float32.
_STATE_BYTES = 16


@contextmanager
def shapes_alone(config: Experiment, num_classes: int) -> Iterator[PretrainModel | Classifier]:
    """The experiment's network, of tensors that have shapes and no numbers, as all that is computed meanwhile.

    ``num_classes`` matters to fine-tuning alone. Draws nothing from any generator.
    """
    with torch.device("meta"):
        model = pretrain_model(config) if config.stage == "pretrain" else classifier(config, num_classes)
    set_recompute(model, config.optim.recompute)
    with torch.random.fork_rng([]), FakeTensorMode(allow_non_fake_inputs=True):
        yield model.to_empty(device="cpu")


def process_bytes(model: PretrainModel | Classifier, step_peak: int) -> int:
    """Of a process whose steps have so much at once: weights, gradients and AdamW's moments are added."""
    return sum(each.numel() for each in model.parameters()) * _STATE_BYTES + step_peak


def kept_per_clip(model: PretrainModel | Classifier, config: Experiment, in_bfloat16: bool) -> int:
    """Bytes that autograd keeps for the backward pass of a clip more in a batch, on the model's device, not compiled.

    Measured on black clips; leaves no trace in the model, nor in any generator.
    """
    device, m = model.patch_embed.proj.weight.device, config.model

    def of(clips: int) -> int:
        black = torch.zeros(clips, m.num_frames, m.image_size, m.image_size, 3, dtype=torch.uint8, device=device)
        with noting_kept(model) as kept, torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
            out = model(black)
            total = sum(kept.values())
        del out  # which held it
        return total

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return of(2) - of(1)


@contextmanager
def noting_kept(model: PretrainModel | Classifier) -> Iterator[dict[int, int]]:
    """Bytes by storage of all that autograd keeps meanwhile, the model's own weights left out."""
    weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
    kept = dict[int, int]()

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


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
