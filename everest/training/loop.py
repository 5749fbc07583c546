"""The training loop: batch, step, log, validate, save. It reads downwards."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from everest.config import Experiment
from everest.data.bad import BadVideos
from everest.data.index import VideoIndex
from everest.data.loader import Batch, TrainOrder, train_loader
from everest.data.workers import worker_count
from everest.errors import AgreedError
from everest.export import Exported
from everest.machine import node
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.cost import cost_numbers
from everest.progress import ProgressBar
from everest.protocols import Tracker
from everest.training.checkpoint import Checkpoints
from everest.training.distributed import Process
from everest.training.hardware import Hardware
from everest.training.interrupt import Interrupted, StopRequest
from everest.training.journal import REMEDY, Journal
from everest.training.optim import CosineSchedule, build_optimizer
from everest.training.pace import DataLimit, Pace, remedies
from everest.training.pictures import Pictures
from everest.training.precision import in_bfloat16
from everest.training.profile import Profile
from everest.training.saved import Checkpoint, all_finite
from everest.training.snapshot import map_tensors
from everest.training.step import Loss, Step
from everest.training.stragglers import Stragglers

log = logging.getLogger(__name__)

Validate = Callable[[], dict[str, float]]

PICTURES_APART_S = 300
_WAIT, _LITTLE = "perf/data_wait", 0.05  # shown from that share on
_SHOWN = ("train/loss", "train/lr", "perf/clips_per_s", _WAIT)


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
    validate: Validate | None = None  # called every validate_epochs epochs (0: not on the way), and at the end
    validate_epochs: int = 0
    texts: dict[str, str] = field(default_factory=dict)  # files that every checkpoint keeps beside the weights
    begun: Callable[[], None] | None = None  # called after the first step: now there is something to lose
    pictures: Pictures | None = None  # drawn every keep.picture_epochs epochs or less often
    latest: dict[str, float] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)
    drawn_at: float = -math.inf

    def __post_init__(self) -> None:
        config, process = self.config, self.process
        self.order = TrainOrder(len(self.index.videos), config, process.rank, process.world)
        self.steps = self.order.steps
        self.optimizer = build_optimizer(self.model, config.optim)
        scale = config.optim.batch_size / 256
        self.schedule = CosineSchedule(
            self.optimizer,
            steps=self.steps,
            warmup=round(config.optim.warmup_epochs / config.optim.epochs * self.steps),
            start=config.optim.warmup_lr * scale,
            end=config.optim.min_lr * scale,
        )
        self.journal = Journal(process)
        self.bad = BadVideos(len(self.index.videos), config.data.max_bad)

    def restore(self, checkpoint: Checkpoint) -> None:
        """In the first process; the others follow by ``restore_from_first``."""
        self.model.load_state_dict(checkpoint.weights)
        self._restore(checkpoint.training["optimizer"], checkpoint.training)

    def restore_from_first(self, outline: Checkpoint) -> None:
        """Brings what the first process has restored to all, one tensor at a time."""
        if not self.process.main:
            device = self.process.device
            optimizer = map_tensors(outline.training["optimizer"], lambda _, t: torch.empty_like(t, device=device))
            self._restore(optimizer, outline.training)
        for state in (self.model.state_dict(), self.optimizer.state_dict()):
            map_tensors(state, lambda _, tensor: self.process.share_tensor(tensor))

    def _restore(self, optimizer: dict[str, Any], training: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(optimizer)
        self.journal.restore(training["journal"])
        self.latest = training["latest"]
        self.bad.restore(training["bad"])

    def validates_after(self, step: int) -> bool:
        epoch, within = divmod(step, self.order.steps_per_epoch)
        every = self.validate_epochs
        due = every and within == 0 and epoch % every == 0
        return self.validate is not None and bool(due or step == self.steps)

    def saves_after(self, step: int) -> bool:
        return step % self.config.keep.checkpoint_steps == 0 or step == self.steps or self.validates_after(step)

    def draw(self, step: int) -> None:
        """A picture, where one is due and the last is some time ago (the last step's is drawn of the finished run)."""
        self.show_pictures()
        epoch, within = divmod(step, self.order.steps_per_epoch)
        every = self.config.keep.picture_epochs
        due = every and within == 0 and epoch % every == 0 and step < self.steps
        if self.pictures and due and time.monotonic() - self.drawn_at >= PICTURES_APART_S:
            self.drawn_at = time.monotonic()
            self.pictures.begin(self.exported(), step)

    def show_pictures(self, to_the_end: bool = False) -> None:
        """Those that are drawn by now."""
        for picture in self.pictures.drawn(to_the_end) if self.pictures else ():
            self.tracker.artifact(picture, picture.parent.name)

    def run_validation(self, step: int) -> dict[str, float]:
        assert self.validate
        with self.process.pulse.during("validating"):
            measured = self.validate()
        self.report(measured, step)
        best = self.config.keep.best
        if self.process.main and best in measured:
            self.checkpoints.mark_best(best, measured[best])
        return measured

    def report(self, numbers: dict[str, float], step: int) -> None:
        self.latest |= numbers
        self.tracker.metrics(numbers, step)

    @property
    def overdue(self) -> bool:
        """Whether a checkpoint is due by the first process's clock."""
        minutes = self.config.keep.checkpoint_minutes
        return self.process.main and minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def save(self, step: int) -> None:
        """Raises AgreedError where the weights are not finite: the checkpoint before is worth more than they are."""
        with self.process.pulse.during("saving"):
            self._save(step)

    def _save(self, step: int) -> None:
        self.saved_at = time.monotonic()
        self.journal.read()
        if any(self.process.largest(not all_finite(self.model.state_dict().values()))):
            raise AgreedError(f"the weights are not finite after step {step} (lr {self.lr:.3g}); {REMEDY}")
        bad = self.share_bad()
        if self.process.main:
            training = {
                "optimizer": self.optimizer.state_dict(),
                "journal": self.journal.state(),
                "latest": self.latest,
                "bad": bad,
            }
            texts = self.exported().texts() | self.texts
            if self.metrics_file.exists():
                texts[self.metrics_file.name] = self.metrics_file.read_text(encoding="utf-8")
            self.checkpoints.save(step, self.model.state_dict(), training, texts)

    def settle(self) -> None:
        """Returns, in all processes, when what was saved is whole: none may end before, or its peers are ended too."""
        with self.process.pulse.during("saving"):
            self.process.together(self.checkpoints.finish)

    @property
    def lr(self) -> float:
        """The largest of the parameter groups', now."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def exported(self) -> Exported:
        return Exported(self.model, self.config, self.classes)

    def noting(self, paths: list[str], batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; what is in them is added to ``paths`` and to the bad videos."""
        for batch in batches:
            paths += batch.paths
            self.bad.add(batch.bad)
            yield batch

    def begin(self, start: int) -> None:
        if not start:
            self.draw(0)
        elif self.validates_after(start):  # saved, but perhaps not validated any more
            self.run_validation(start)

    def begin_step(self, step: int) -> None:
        self.process.pulse.step(step)
        self.schedule.set(step)

    def next_batch(self, pace: Pace, batches: Iterator[Batch]) -> Batch:
        patience_s = self.config.data.time_limit + self.index.videos.patience_s
        with self.process.pulse.during("data", patience_s):
            return pace.next(batches)

    def share_bad(self) -> dict[str, str]:
        """Unreadable videos that any process has met; each says those that are new to it."""
        self.bad.share(self.process.gather)
        return self.bad.reasons


def train(training: Training, start: int) -> None:
    """Trains from step ``start`` to the end.

    A step whose gradient is not finite is skipped, by all processes alike. Raises Interrupted after a checkpoint when
    asked to stop, AgreedError where the loss is not finite or too many steps in a row would be skipped, TooManyBad
    where too many videos are unreadable.
    """
    t = training
    config, process, order = t.config, t.process, t.order
    order.start = start
    batches = iter(train_loader(t.index, config, order, process.device))
    pace, limit = Pace(worker_count(config.data.workers), process.device), DataLimit(remedies(config, t.index))
    stragglers = Stragglers(process.gather(node()))
    take_step = Step(config, t.model, t.loss, t.optimizer, process, pace.computed)
    t.model.train()
    with pace.paused():
        t.begin(start)
    hardware = Hardware(process, t.model, config, in_bfloat16(config, process.device))
    with ProgressBar(config.name, t.steps, start, visible=process.main, every_s=math.inf) as bar:
        for step in Profile(t.metrics_file.parent, process).over(range(start, t.steps)):
            t.begin_step(step)
            paths: list[str] = []
            taken = take_step(step, t.noting(paths, (t.next_batch(pace, batches) for _ in take_step.micro_batches)))
            t.journal.add(step, t.lr, taken, paths)

            done = step + 1
            if step == start and t.begun:
                t.begun()
            bar.advance()
            if done % config.keep.log_steps == 0 or done == t.steps:
                numbers = t.journal.read().numbers()
                seconds = pace.seconds
                numbers |= {"train/lr": t.lr, "train/epoch": done / order.steps_per_epoch} | pace.numbers(process)
                numbers["data/bad_videos"] = float(len(t.bad.reasons))
                numbers["cost/process_hours"] = t.latest.get("cost/process_hours", 0) + seconds * process.world / 3600
                if done == t.steps and process.main:
                    numbers |= cost_numbers(t.model, config, in_bfloat16(config, process.device))
                t.report(numbers | hardware.numbers(numbers["perf/clips_per_s"]), done)
                bar.show({name: numbers[name] for name in _SHOWN if name != _WAIT or numbers[name] > _LITTLE})
                if process.main:
                    limit.see(numbers, seconds)
                    stragglers.see(pace.shares, seconds)
                t.journal.shown()

            t.draw(done)
            t.checkpoints.check()
            signum, too_many_bad, overdue = process.largest(t.stop.signum, t.bad.too_many, t.overdue)
            if too_many_bad:
                t.share_bad()
                t.bad.check()
            if t.saves_after(done) or overdue or signum:
                t.save(done)
            if signum and done < t.steps:
                t.settle()
                t.show_pictures(to_the_end=True)
                raise Interrupted(
                    f"stopped at step {done} of {t.steps}, saved; the same command continues", signum, t.stop.because
                )
            if t.validates_after(done):
                with pace.paused():
                    bar.show(t.run_validation(done))
