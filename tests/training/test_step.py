"""One optimizer step: what it computes, and that nothing in it waits for the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from everest.config import Experiment
from everest.data.units import Batch
from everest.model.registry import classifier, pretrain_model
from everest.seeding import seed_everything
from everest.training.distributed import Process
from everest.training.finetune import FinetuneLoss
from everest.training.optim import build_optimizer, parameter_groups
from everest.training.pretrain import pretrain_loss
from everest.training.step import Loss, Step
from tests.conftest import tiny

CLASSES = 8
DEVICES = ["cpu", "cuda"]
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero"}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device(request.param)


def experiment(stage: str, **changes: object) -> Experiment:
    drawn = {"frames.select": True, "augment.mixup": 0.8, "augment.erase": 0.25} if stage == "finetune" else {}
    batch = {"optim.batch_size": 8, "optim.micro_batch": 4, "optim.clip_grad": 0.05}
    return tiny(stage, Path("nowhere"), **{**batch, **drawn, **changes})


def network(config: Experiment, device: torch.device) -> tuple[Any, Loss]:
    torch.manual_seed(0)
    if config.stage == "pretrain":
        return pretrain_model(config).to(device).train(), pretrain_loss
    return classifier(config, CLASSES).to(device).train(), FinetuneLoss(config.augment, CLASSES, str(device))


def batches(config: Experiment, device: torch.device) -> list[Batch]:
    m, generator = config.model, torch.Generator().manual_seed(1)
    frames = config.frames.candidates(m.num_frames, m.tubelet_size)
    shape = (config.optim.micro_batch, frames, m.image_size, m.image_size, 3)
    return [
        Batch(
            torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device),
            torch.randint(CLASSES, shape[:1], generator=generator).to(device),
            [], {}, 0.0,
        )
        for _ in range(config.optim.micro_batches)
    ]  # fmt: skip


def step_of(config: Experiment, device: torch.device) -> tuple[Any, Step]:
    model, loss = network(config, device)
    optimizer = build_optimizer(model, config.optim)
    return model, Step(config, model, loss, optimizer, Process(0, 1, device))


class Reads(TorchDispatchMode):
    """Operations for whose result the host would have to wait, were it a GPU's."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name in READS or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def nothing_read(device: torch.device) -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch, Reads() as reads:
        for name in ("tolist", "numpy", "cpu"):  # on a CPU these are no operations
            patch.setattr(Tensor, name, _noting(reads.found, name, getattr(Tensor, name)))
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield reads.found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def _noting(found: list[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(tensor: Tensor, *arguments: Any) -> Any:
        found.append(name)
        return method(tensor, *arguments)

    return noting


@pytest.mark.parametrize(
    "read", [float, bool, lambda scalar: scalar.tolist(), torch.nonzero, lambda scalar: scalar[None][scalar[None] > 0]]
)
def test_reading_from_the_device_is_noticed(read: Callable[[Tensor], Any]) -> None:
    with nothing_read(torch.device("cpu")) as found:
        read(torch.tensor(1.0))
    assert found


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_step_waits_for_nothing_on_the_device(stage: str, device: torch.device) -> None:
    config = experiment(stage)
    _, step = step_of(config, device)
    given = batches(config, device)
    step(0, given)
    with nothing_read(device) as found:
        step(1, given)
    assert found == []


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("clip_grad", [0.05, 1e6, None])
def test_a_step_is_the_mean_gradient_of_its_micro_batches_clipped_and_given_to_adamw(
    stage: str, clip_grad: float | None, device: torch.device
) -> None:
    """Beside torch's clip_grad_norm_ and AdamW, parameter by parameter, on the gradients summed by hand."""
    config = experiment(stage, **{"frames.select": False, "optim.clip_grad": clip_grad})
    given = batches(config, device)
    model, step = step_of(config, device)
    done = [step(number, given) for number in range(3)]

    expected, loss = network(config, device)
    rate = config.optim.lr * config.optim.batch_size / 256
    groups = parameter_groups(expected, config.optim.weight_decay, config.optim.layer_decay)
    for group in groups:
        group["lr"] = rate * group.get("lr_scale", 1)
    adamw = torch.optim.AdamW(groups, betas=config.optim.betas, foreach=False)
    for number in range(3):
        losses = []
        for micro_batch, batch in enumerate(given):
            seed_everything(config.seed, "step", number, micro_batch)
            losses.append(loss(expected, batch.frames, batch.labels))
        (sum(losses) / len(losses)).backward()
        norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), clip_grad or float("inf"))
        adamw.step()
        adamw.zero_grad()
        torch.testing.assert_close(done[number].grad_norm, norm)
        torch.testing.assert_close(done[number].loss, torch.stack(losses).mean().detach())
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_recomputing_blocks_changes_no_bit(stage: str, device: torch.device) -> None:
    """Not even those of dropped paths, which are drawn again alike."""
    found = []
    for recompute in (False, True):
        config = experiment(stage, **{"optim.recompute": recompute, "model.drop_path": 0.5})
        model, step = step_of(config, device)
        given = batches(config, device)
        done = [step(number, given) for number in range(3)]
        found.append((done, model.state_dict()))
    (done, weights), (again, same) = found
    for one, other in zip(done, again, strict=True):
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.grad_norm, other.grad_norm)
    for name, tensor in weights.items():
        assert torch.equal(tensor, same[name]), name
