"""How a sweep goes: a live table on a terminal, lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from optuna.trial import TrialState
from rich.console import Group
from rich.live import Live
from rich.table import Table

from everest.progress import clock, console
from sweeps.best import describe
from sweeps.controller import Controller
from sweeps.study import STATE_NAMES, Study
from sweeps.trial import Job

_LINE_EVERY_S = 30.0
_MOST_ROWS = 20


class Display:
    """Called by the controller whenever it has looked."""

    def __init__(self) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._begun: dict[str, tuple[float, float]] = {}  # job -> when first seen, and how far it was
        self._best = ""
        self._said: tuple[int, str] = (-1, "")
        self._said_at = 0.0

    def __enter__(self) -> Self:
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if console.is_terminal:
            self._live.stop()

    def __call__(self, controller: Controller) -> None:
        ended = sum(controller.books.ended.values())
        if ended != self._said[0]:
            self._best = best_of(controller.study)
        if console.is_terminal:
            self._live.update(Group(self._summary(controller), self._best, self._table(controller)), refresh=True)
            self._said = (ended, self._best)
        elif (ended, self._best) != self._said or time.monotonic() - self._said_at > _LINE_EVERY_S:
            print("; ".join(filter(None, (self._summary(controller), self._best))), file=sys.stderr, flush=True)
            self._said, self._said_at = (ended, self._best), time.monotonic()

    def _summary(self, controller: Controller) -> str:
        spent = controller.books.spent.describe(controller.budget)
        return f"{controller.study.name}: {spent}; {len(controller.open)} running, {by_state(controller.books.ended)}"

    def _table(self, controller: Controller) -> Table:
        table = Table(box=None, pad_edge=False, header_style="")
        for title in ("TRIAL", "JOB", "STATE", "STEP", "LOSS", "LEFT"):
            table.add_column(title, no_wrap=True, justify="right" if title in {"STEP", "LOSS", "LEFT"} else "left")
        for open_trial in list(controller.open.values())[:_MOST_ROWS]:
            job = controller.jobs.open[open_trial.job]
            step, loss = job.numbers.get("train/loss", (None, None))
            numbers = ("-" if step is None else str(step), "-" if loss is None else f"{loss:.4g}", self._left(job))
            table.add_row(str(open_trial.number), job.name, job.state, *numbers)
        if len(controller.open) > _MOST_ROWS:
            table.add_row("…", f"{len(controller.open) - _MOST_ROWS} more")
        return table

    def _left(self, job: Job) -> str:
        done = _share_done(job)
        since, before = self._begun.setdefault(job.name, (time.monotonic(), done))
        if done <= before:
            return "-"
        return clock((1 - done) * (time.monotonic() - since) / (done - before))


def by_state(ended: dict[TrialState, int]) -> str:
    """9 complete, 2 pruned, 1 failed"""
    return ", ".join(f"{ended.get(state, 0)} {name}" for state, name in STATE_NAMES.items())


def best_of(study: Study) -> str:
    best = study.best()
    if not best:
        return ""
    more = f" (and {len(best) - 1} more that none is better than)" if len(best) > 1 else ""
    return f"best: trial {best[0].number}, {describe(study, best[0])}{more}"


def _share_done(job: Job) -> float:
    optim = job.experiment.optim
    if optim.steps:
        return job.numbers.get("train/loss", (0, 0.0))[0] / optim.steps
    return job.numbers.get("train/epoch", (0, 0.0))[1] / optim.epochs
