"""The training loop: batch, step, log, validate, save. It reads downwards."""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from everest.config import Experiment
from everest.data.bad import BadVideos
from everest.data.index import VideoIndex
from everest.data.loader import Batch, TrainOrder, train_loader
from everest.data.workers import worker_count
from everest.errors import AgreedError, UsageError
from everest.export import Exported
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.cost import gflops_per_clip
from everest.model.frames import select_frames
from everest.progress import ProgressBar
from everest.protocols import Tracker
from everest.seeding import derived_seed, seed_everything
from everest.training.checkpoint import Checkpoint, Checkpoints
from everest.training.distributed import Process
from everest.training.hardware import Hardware
from everest.training.interrupt import Interrupted, StopRequest
from everest.training.optim import CosineSchedule, build_optimizer
from everest.training.pace import DataLimit, Pace, remedies

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Validate = Callable[[], dict[str, float]]

_BAD_GRADIENT, _TOO_MANY_BAD, _BAD_LOSS = 1, 2, 3  # what a process can find wrong with a step, the worst last
_MOST_SKIPPED = 5
_WAIT, _LITTLE = "perf/data_wait", 0.05  # shown from that share on
_SHOWN = ("train/loss", "train/lr", "perf/clips_per_s", _WAIT)
_REMEDY = "the last checkpoint is kept; try a lower optim.lr or optim.clip_grad 1.0"


@dataclass
class Meter:
    """One process's sums since numbers were last shown; saved, so that a resumed run shows the same ones."""

    loss: float = 0.0
    grad_norm: float = 0.0  # of the steps that were taken
    steps: int = 0
    skipped: int = 0

    def add(self, loss: float, grad_norm: float, taken: bool) -> None:
        self.loss, self.steps = self.loss + loss, self.steps + 1
        if taken:
            self.grad_norm += grad_norm
        else:
            self.skipped += 1


@dataclass
class Training:
    """All that a loop works with."""

    config: Experiment
    model: PretrainModel | Classifier
    loss: Loss
    index: VideoIndex
    process: Process
    checkpoints: Checkpoints
    tracker: Tracker
    stop: StopRequest
    metrics_file: Path
    classes: tuple[str, ...] = ()
    validate: Validate | None = None  # called every evaluate.every_epochs epochs
    texts: dict[str, str] = field(default_factory=dict)  # files that every checkpoint keeps beside the weights
    begun: Callable[[], None] | None = None  # called after the first step: now there is something to lose
    picture: Callable[[int], None] | None = None  # called with the step, every keep.picture_epochs epochs
    meter: Meter = field(default_factory=Meter)
    latest: dict[str, float] = field(default_factory=dict)
    skipped: int = 0  # steps in a row, until now

    def __post_init__(self) -> None:
        config, process = self.config, self.process
        self.order = TrainOrder(len(self.index.videos), config, process.rank, process.world)
        self.steps = self.order.steps
        self.clips_per_step = config.optim.batch_size * config.optim.accumulate * process.world
        self.optimizer = build_optimizer(self.model, config.optim, self.clips_per_step)
        scale = self.clips_per_step / 256
        self.schedule = CosineSchedule(
            self.optimizer,
            steps=self.steps,
            warmup=round(config.optim.warmup_epochs / config.optim.epochs * self.steps),
            start=config.optim.warmup_lr * scale,
            end=config.optim.min_lr * scale,
        )
        self.bad = BadVideos(len(self.index.videos), config.data.max_bad)

    @property
    def bfloat16(self) -> bool:
        wanted, kind = self.config.optim.precision, self.process.device.type
        if wanted == "auto":
            return kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return wanted == "bfloat16"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.process.device.type, torch.bfloat16, enabled=self.bfloat16)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Raises UsageError where another number of processes would make other batches."""
        begun_with = checkpoint.training["processes"]
        if begun_with != self.process.world:
            raise UsageError(
                f"{self.config.name} was begun with {begun_with} processes and cannot go on with {self.process.world}; "
                f"use torchrun --nproc-per-node to start as many, or choose another --name"
            )
        self.model.load_state_dict(checkpoint.weights)
        self.optimizer.load_state_dict(checkpoint.training["optimizer"])
        self.meter = Meter(**checkpoint.training["meters"][self.process.rank])
        self.latest = checkpoint.training["latest"]
        self.skipped = checkpoint.training.get("skipped", 0)
        self.bad.reasons |= checkpoint.training["bad"]

    def validates_after(self, step: int) -> bool:
        epoch, within = divmod(step, self.order.steps_per_epoch)
        due = within == 0 and epoch % self.config.evaluate.every_epochs == 0
        return self.validate is not None and (due or step == self.steps)

    def draw(self, step: int) -> None:
        """A picture, where one is due (the last step's is drawn of the finished run)."""
        epoch, within = divmod(step, self.order.steps_per_epoch)
        every = self.config.keep.picture_epochs
        if self.picture and every and within == 0 and epoch % every == 0 and step < self.steps:
            self.picture(step)

    def run_validation(self, step: int) -> dict[str, float]:
        assert self.validate
        measured = self.validate()
        self.report(measured, step)
        best = self.config.keep.best
        if self.process.main and best in measured:
            self.checkpoints.mark_best(best, measured[best])
        return measured

    def report(self, numbers: dict[str, float], step: int) -> None:
        self.latest |= numbers
        self.tracker.metrics(numbers, step)

    def save(self, step: int) -> None:
        """Raises AgreedError where the weights are not finite: the checkpoint before is worth more than they are."""
        finite = all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values())
        if self.process.largest(not finite):
            raise AgreedError(f"the weights are not finite after step {step} (lr {self.lr:.3g}); {_REMEDY}")
        bad, meters = self.share_bad(), self.process.gather(vars(self.meter))
        if self.process.main:
            training = {
                "optimizer": self.optimizer.state_dict(),
                "meters": meters,
                "latest": self.latest,
                "skipped": self.skipped,
                "bad": bad,
                "processes": self.process.world,
            }
            texts = self.exported().texts() | self.texts
            if self.metrics_file.exists():
                texts[self.metrics_file.name] = self.metrics_file.read_text(encoding="utf-8")
            self.checkpoints.save(step, self.model.state_dict(), training, texts)

    @property
    def lr(self) -> float:
        """The largest of the parameter groups', now."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def exported(self) -> Exported:
        return Exported(self.model, self.config, self.classes)

    def share_bad(self) -> dict[str, str]:
        """Unreadable videos that any process has met; the first process says those that are new to it."""
        for met in self.process.gather(self.bad.reasons):
            self.bad.add(met)
        return self.bad.reasons


def train(training: Training, start: int) -> None:
    """Trains from step ``start`` to the end.

    A step whose gradient is not finite is skipped, by all processes alike. Raises Interrupted after a checkpoint when
    asked to stop, AgreedError where the loss is not finite or too many steps in a row would be skipped, TooManyBad
    where too many videos are unreadable.
    """
    t = training
    config, process, order = t.config, t.process, t.order
    order.start = start * config.optim.accumulate
    batches = iter(train_loader(t.index, config, order, process.device))
    model = DistributedDataParallel(t.model, forward_sync_buffers=False) if process.world > 1 else t.model
    model.train()
    t.optimizer.zero_grad()
    if not start:
        t.draw(0)
    if start and t.validates_after(start):  # saved, but perhaps not validated any more
        t.run_validation(start)
    pace, limit = Pace(worker_count(config.data.workers)), DataLimit(remedies(config, t.index))
    hardware = Hardware(process, t.model, config, t.bfloat16)
    with ProgressBar(config.name, t.steps, start, visible=process.main, every_s=math.inf) as bar:
        for step in range(start, t.steps):
            t.schedule.set(step)
            loss, paths = 0.0, []
            for part in range(config.optim.accumulate):
                batch = pace.next(batches)
                t.bad.add(batch.bad)
                paths += batch.paths
                last = part == config.optim.accumulate - 1
                with nullcontext() if last or process.world == 1 else model.no_sync():  # type: ignore[operator]
                    loss += _forward_backward(t, model, batch, ("step", step, part, process.rank))
            grad_norm, taken = _take_step(t, loss, step, paths)

            done = step + 1
            if step == start and t.begun:
                t.begun()
            t.meter.add(loss, grad_norm, taken)
            bar.advance()
            if done % config.keep.log_steps == 0 or done == t.steps:
                seconds = pace.seconds
                numbers = _numbers(t, step) | pace.numbers(process)
                numbers["cost/process_hours"] = t.latest.get("cost/process_hours", 0) + seconds * process.world / 3600
                if done == t.steps:
                    numbers["cost/gflops_per_clip"] = gflops_per_clip(t.model, config)
                t.report(numbers | hardware.numbers(numbers["perf/clips_per_s"]), done)
                bar.show({name: numbers[name] for name in _SHOWN if name != _WAIT or numbers[name] > _LITTLE})
                if process.main:
                    limit.see(numbers, seconds)
                t.meter = Meter()

            with pace.paused():
                t.draw(done)

            signum = process.largest(t.stop.signum)
            if done % config.keep.checkpoint_steps == 0 or done == t.steps or t.validates_after(done) or signum:
                t.save(done)
            if signum and done < t.steps:
                raise Interrupted(f"stopped at step {done} of {t.steps}, saved; the same command continues", signum)
            if t.validates_after(done):
                with pace.paused():
                    bar.show(t.run_validation(done))


def _forward_backward(t: Training, model: nn.Module, batch: Batch, keys: tuple[int | str, ...]) -> float:
    """Adds one batch's gradients and returns its share of the step's loss."""
    config, device = t.config, t.process.device
    seed_everything(config.seed, *keys)
    clips = batch.frames
    labels = batch.labels.to(device, non_blocking=True)
    if config.frames.select:
        generator = torch.Generator(device).manual_seed(derived_seed(config.seed, "frames", *keys) % 2**63)
        embed = t.model.patch_embed
        clips = select_frames(embed, clips, config.model.num_frames, config.frames, generator)
    with t.autocast():
        loss = t.loss(model, clips, labels) / config.optim.accumulate
    loss.backward()
    return float(loss.detach())


def _take_step(t: Training, loss: float, step: int, paths: list[str]) -> tuple[float, bool]:
    """Updates the weights with the gradients there are. Returns their norm, and whether it could be done."""
    norm = nn.utils.get_total_norm(p.grad for p in t.model.parameters() if p.grad is not None)
    taken = _agree(t, loss, float(norm), step, paths)
    if taken:
        if t.config.optim.clip_grad:
            nn.utils.clip_grads_with_norm_(t.model.parameters(), t.config.optim.clip_grad, norm)
        t.optimizer.step()
    t.optimizer.zero_grad()
    return float(norm), taken


def _agree(t: Training, loss: float, grad_norm: float, step: int, paths: list[str]) -> bool:
    """Whether the step is taken. Where one process cannot take it none does; where one cannot go on none does."""
    trouble = (
        _BAD_LOSS if not math.isfinite(loss)
        else _TOO_MANY_BAD if t.bad.too_many
        else _BAD_GRADIENT if not math.isfinite(grad_norm)
        else 0
    )  # fmt: skip
    found = t.process.largest(trouble)
    if found == _TOO_MANY_BAD:
        t.share_bad()
        t.bad.check()
    if found == _BAD_LOSS:
        guilty = [path for part in t.process.gather([] if math.isfinite(loss) else paths) for path in part]
        raise AgreedError(
            f"the loss is not finite at step {step} (lr {t.lr:.3g}), batch {', '.join(guilty)}; {_REMEDY}"
        )
    t.skipped = t.skipped + 1 if found == _BAD_GRADIENT else 0
    if t.skipped == _MOST_SKIPPED:
        raise AgreedError(
            f"the gradient was not finite {t.skipped} steps in a row, the last step {step} (lr {t.lr:.3g}); {_REMEDY}"
        )
    if t.skipped and t.process.main:
        log.warning("step %d: the gradient is not finite (lr %.3g); the step is skipped", step, t.lr)
    return not t.skipped


def _numbers(t: Training, step: int) -> dict[str, float]:
    """Averages over the steps since the last time, and over processes."""
    sums = t.process.gather((t.meter.loss, t.meter.grad_norm))
    processes, taken = len(sums), t.meter.steps - t.meter.skipped
    numbers = {
        "train/loss": sum(s[0] for s in sums) / (t.meter.steps * processes),
        "train/lr": t.lr,
        "train/epoch": (step + 1) / t.order.steps_per_epoch,
        "data/bad_videos": float(len(t.share_bad())),
    }
    if taken:
        numbers["train/grad_norm"] = sum(s[1] for s in sums) / (taken * processes)
    if t.meter.skipped:
        numbers["train/skipped_steps"] = float(t.meter.skipped)
    return numbers
