"""One optimizer step. Nothing of it is read from the device, so that nothing waits for it."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel

from everest.config import Experiment
from everest.data.units import Batch
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.frames import select_frames
from everest.model.vit import set_recompute
from everest.seeding import derived_seed, seed_everything
from everest.training.compiling import compiled, compiles
from everest.training.distributed import Process
from everest.training.precision import autocast

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Done(NamedTuple):
    """Scalars on the device. The weights have changed unless the norm is not finite."""

    loss: Tensor  # mean over this process's micro-batches
    grad_norm: Tensor  # before clipping, the same in all processes


class Step:
    """Forward and backward of this process's micro-batches, then AdamW (fused) on the mean gradient of all.

    Random choices depend on the step and the micro-batch's number in it, not on the process that makes them.
    Where any micro-batch's loss or gradient is not finite, no process changes its weights. ``computed`` is called when
    a micro-batch's gradients are there, before those of other processes are waited for.
    """

    def __init__(
        self,
        config: Experiment,
        model: PretrainModel | Classifier,
        loss: Loss,
        optimizer: torch.optim.AdamW,
        process: Process,
        computed: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.model, self.loss, self.optimizer = config, model, loss, optimizer
        self.process, self.computed = process, computed
        set_recompute(model, config.optim.recompute)
        self.micro_batches = config.optim.dealt(process.rank, process.world)
        self._compiles = compiles(config, process.device)
        network = compiled(model) if self._compiles else model
        self.network: nn.Module = (
            DistributedDataParallel(
                network,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
                static_graph=len(self.micro_batches) == 1,  # which allows no step without exchange before
            )
            if process.world > 1
            else network
        )
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __call__(self, step: int, batches: Iterable[Batch]) -> Done:
        """``batches`` are this process's micro-batches, on the device."""
        losses = []
        for number, batch in zip(self.micro_batches, batches, strict=True):
            with self._sums() if number != self.micro_batches[-1] else nullcontext():
                losses.append(self._forward_backward(batch, ("step", step, number)))
        self._compiles = False  # any more
        self.process.pulse.enter("update")
        return Done(torch.stack(losses).mean(), self._update())

    def _sums(self) -> AbstractContextManager[None]:
        """Gradients stay in this process until the last micro-batch."""
        network = self.network
        sums: AbstractContextManager[None] = (
            network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
        )
        return sums

    def _forward_backward(self, batch: Batch, keys: tuple[int | str, ...]) -> Tensor:
        """Adds the micro-batch's gradients, all of them NaN where its loss is not finite. Returns the loss."""
        config, device, pulse = self.config, self.process.device, self.process.pulse
        pulse.enter("compiling" if self._compiles else "forward")
        seed_everything(config.seed, *keys)
        clips = batch.frames
        if config.frames.select:
            generator = torch.Generator(device).manual_seed(derived_seed(config.seed, "frames", *keys) % 2**63)
            clips = select_frames(self.model.patch_embed, clips, config.model.num_frames, config.frames, generator)
        with autocast(config, device):
            loss = self.loss(self.network, clips, batch.labels)
        share = 1 / len(self.micro_batches)
        loss.register_hook(lambda _: Variable._execution_engine.queue_callback(self._computed))
        if not self._compiles:
            pulse.enter("backward")
        loss.backward(torch.where(loss.detach().isfinite(), share, torch.nan))
        return loss.detach()

    def _computed(self) -> None:
        self.computed()
        if self.process.world > 1:
            self.process.pulse.enter("collective")

    def _update(self) -> Tensor:
        """Returns the norm of the gradients, which clipping divides by and AdamW looks at, both within its kernel."""
        optimizer, largest = self.optimizer, self.config.optim.clip_grad
        norm = nn.utils.get_total_norm(parameter.grad for parameter in self._parameters if parameter.grad is not None)
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        if largest:
            optimizer.grad_scale = (norm / largest).clamp(min=1)  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
        return norm
