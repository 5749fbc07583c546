"""The training loop: batch, step, log, validate, save. It reads downwards."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from everest.config import Experiment
from everest.data.bad import BadVideos
from everest.data.index import VideoIndex
from everest.data.loader import Batch, TrainOrder, train_loader
from everest.data.workers import worker_count
from everest.errors import AgreedError
from everest.export import Exported
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.cost import gflops_per_clip
from everest.progress import ProgressBar
from everest.protocols import Tracker
from everest.training.checkpoint import Checkpoint, Checkpoints
from everest.training.distributed import Process
from everest.training.hardware import Hardware
from everest.training.interrupt import Interrupted, StopRequest
from everest.training.journal import REMEDY, Journal
from everest.training.optim import CosineSchedule, build_optimizer
from everest.training.pace import DataLimit, Pace, remedies
from everest.training.precision import in_bfloat16
from everest.training.step import Loss, Step

log = logging.getLogger(__name__)

Validate = Callable[[], dict[str, float]]

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
    validate: Validate | None = None  # called every evaluate.every_epochs epochs
    texts: dict[str, str] = field(default_factory=dict)  # files that every checkpoint keeps beside the weights
    begun: Callable[[], None] | None = None  # called after the first step: now there is something to lose
    picture: Callable[[int], None] | None = None  # called with the step, every keep.picture_epochs epochs
    latest: dict[str, float] = field(default_factory=dict)

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
        self.model.load_state_dict(checkpoint.weights)
        self.optimizer.load_state_dict(checkpoint.training["optimizer"])
        self.journal.restore(checkpoint.training["journal"])
        self.latest = checkpoint.training["latest"]
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
        self.journal.read()
        finite = all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values())
        if any(self.process.largest(not finite)):
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
    order.start = start
    batches = iter(train_loader(t.index, config, order, process.device))
    take_step = Step(config, t.model, t.loss, t.optimizer, process)
    t.model.train()
    if not start:
        t.draw(0)
    if start and t.validates_after(start):  # saved, but perhaps not validated any more
        t.run_validation(start)
    pace, limit = Pace(worker_count(config.data.workers), process.device), DataLimit(remedies(config, t.index))
    hardware = Hardware(process, t.model, config, in_bfloat16(config, process.device))
    with ProgressBar(config.name, t.steps, start, visible=process.main, every_s=math.inf) as bar:
        for step in range(start, t.steps):
            t.schedule.set(step)
            paths: list[str] = []
            taken = take_step(step, t.noting(paths, (pace.next(batches) for _ in take_step.micro_batches)))
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
                if done == t.steps:
                    numbers["cost/gflops_per_clip"] = gflops_per_clip(t.model, config)
                t.report(numbers | hardware.numbers(numbers["perf/clips_per_s"]), done)
                bar.show({name: numbers[name] for name in _SHOWN if name != _WAIT or numbers[name] > _LITTLE})
                if process.main:
                    limit.see(numbers, seconds)
                t.journal.shown()

            with pace.paused():
                t.draw(done)

            signum, too_many_bad = process.largest(t.stop.signum, t.bad.too_many)
            if too_many_bad:
                t.share_bad()
                t.bad.check()
            if done % config.keep.checkpoint_steps == 0 or done == t.steps or t.validates_after(done) or signum:
                t.save(done)
            if signum and done < t.steps:
                raise Interrupted(f"stopped at step {done} of {t.steps}, saved; the same command continues", signum)
            if t.validates_after(done):
                with pace.paused():
                    bar.show(t.run_validation(done))
