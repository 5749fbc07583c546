"""What steps leave on the device, read all at once: losses, norms, and whether a run can go on with them."""

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from everest.errors import AgreedError
from everest.training.distributed import Process
from everest.training.step import Done

log = logging.getLogger(__name__)

_MOST_SKIPPED = 5
REMEDY = "the last checkpoint is kept; try a lower optim.lr or optim.clip_grad 1.0"


@dataclass
class Meter:
    """Sums over the steps since numbers were last shown, over all processes."""

    loss: float = 0.0
    grad_norm: float = 0.0  # of the steps that were taken
    steps: int = 0
    skipped: int = 0

    def numbers(self) -> dict[str, float]:
        taken = self.steps - self.skipped
        numbers = {"train/loss": self.loss / self.steps}
        if taken:
            numbers["train/grad_norm"] = self.grad_norm / taken
        if self.skipped:
            numbers["train/skipped_steps"] = float(self.skipped)
        return numbers


class _Entry(NamedTuple):
    step: int
    lr: float
    done: Done
    paths: list[str]


class Journal:
    """The steps since numbers were last shown; its state is saved, so that a resumed run shows the same ones."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._unread: list[_Entry] = []
        self.meter = Meter()
        self._in_a_row = 0  # skipped until now

    def state(self) -> dict[str, Any]:
        """Of what has been read."""
        return {"meter": asdict(self.meter), "skipped": self._in_a_row}

    def restore(self, state: dict[str, Any]) -> None:
        self.meter, self._in_a_row = Meter(**state["meter"]), state["skipped"]

    def add(self, step: int, lr: float, done: Done, paths: list[str]) -> None:
        self._unread.append(_Entry(step, lr, done, paths))

    def read(self) -> Meter:
        """Waits for the device once, by all processes alike.

        Raises AgreedError where a loss is not finite, or too many steps in a row were skipped for their gradient.
        """
        if self._unread:
            with self._process.pulse.during("device"):
                values = torch.stack([torch.stack(entry.done).float() for entry in self._unread]).tolist()
            losses = self._process.gather([loss for loss, _ in values])
            entries, self._unread = self._unread, []
            for entry, (_, norm), each in zip(entries, values, zip(*losses, strict=True), strict=True):
                if not all(map(math.isfinite, each)):
                    self._say_loss(entry, each)
                self._count(entry, sum(each) / len(each), norm)
        return self.meter

    def shown(self) -> None:
        self.meter = Meter()

    def _count(self, entry: _Entry, loss: float, norm: float) -> None:
        self.meter.loss, self.meter.steps = self.meter.loss + loss, self.meter.steps + 1
        if math.isfinite(norm):
            self.meter.grad_norm += norm
            self._in_a_row = 0
            return
        self.meter.skipped += 1
        self._in_a_row += 1
        if self._in_a_row == _MOST_SKIPPED:
            raise AgreedError(
                f"the gradient was not finite {_MOST_SKIPPED} steps in a row, the last step {entry.step} "
                f"(lr {entry.lr:.3g}); {REMEDY}"
            )
        if self._process.main:
            log.warning("step %d: the gradient is not finite (lr %.3g); the step is skipped", entry.step, entry.lr)

    def _say_loss(self, entry: _Entry, losses: tuple[float, ...]) -> None:
        ours = [] if math.isfinite(losses[self._process.rank]) else entry.paths
        guilty = [path for part in self._process.gather(ours) for path in part]
        raise AgreedError(
            f"the loss is not finite at step {entry.step} (lr {entry.lr:.3g}), batch {', '.join(guilty)}; {REMEDY}"
        )
