"""Runs a study: draws trials, has their stages run as jobs, prunes and records them.

Whatever is needed to go on is in the study and in the jobs themselves, never only here: a controller may be killed at
any moment, and the next one takes up the same trials and jobs. Two rules make that so. A job's name follows from its
study and trial (a shared pre-training's from its settings). And a trial is told before its job is removed, so that a
job without a trial is one that nobody needs.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import optuna
from optuna.trial import TrialState

from everest.config import Experiment
from everest.errors import EverestError
from orchestration.job import STUDY, JobStatus, Launcher, State, Unreachable
from sweeps.books import Books, Listener
from sweeps.budget import Budget
from sweeps.interrupts import Interrupts
from sweeps.jobs import Jobs, Metrics
from sweeps.removals import Removals
from sweeps.space import content_hash
from sweeps.study import LINES, Study
from sweeps.trial import Job, OpenTrial

log = logging.getLogger(__name__)

_EVERY_S = 5.0
_STOP_EVERY_S = 15.0


class Controller:
    def __init__(
        self,
        study: Study,
        launcher: Launcher,
        metrics: Metrics,
        budget: Budget,
        listener: Listener,
        same_fault: int = 3,
        every_s: float = _EVERY_S,
        code: str = "",
    ) -> None:
        """``code``: digest of what was sent along for all jobs."""
        self.study, self.launcher, self.metrics, self.budget, self.every_s = study, launcher, metrics, budget, every_s
        self.open: dict[int, OpenTrial] = {}
        self.books = Books(study, listener, launcher.gpus, same_fault)
        self.jobs = Jobs(study, launcher, metrics, budget, self.books, self, every_s, code)
        self._asked_to_stop = self._measured = time.monotonic()

    def run(self, show: "Show", interrupts: Interrupts) -> None:
        """Until the budget is used and every trial has ended.

        Raises Stopped where somebody asked for it and Interrupted by a signal: ``leave`` or ``cancel`` is to be called
        then. Raises EverestError where trials fail one after another for one reason.
        """
        with self.launcher.follow(self.study.name) as following, self.jobs:
            self.study.ask_to_stop(None)
            self._take_up(following.states())
            while True:
                self._fill()
                show(self)
                if not self.open:
                    break
                with interrupts.allowed():
                    following.wait(self.every_s)
                self.jobs.look(following.states())
                self._measure()
                self._hear()
            while self.jobs.any_left(following.states()):
                with interrupts.allowed():
                    following.wait(1)
        self.books.note_active()

    def cancel(self) -> None:
        """Ends all jobs, with a checkpoint each; their trials wait for another controller."""
        for open_trial in self.open.values():
            self.study.put_back(open_trial.trial)
        with Removals(self.launcher, self.every_s) as removals:
            removals.all_of(self.jobs.names())
        self.leave()

    def leave(self) -> None:
        """Ends the watching; jobs go on, and are taken up by the next controller."""
        self.books.note_active()

    def _take_up(self, states: Mapping[str, State]) -> None:
        self.books.take_up()
        for left in self.study.take_up():
            self._begin(left, states)
        self.jobs.remove(states.keys() - self.jobs.open.keys())
        if self.open:
            log.info("%s: %d trials of an earlier controller go on", self.study.name, len(self.open))

    def _fill(self) -> None:
        while len(self.open) < self.budget.parallel and self.books.spent.within(self.budget) and self.study.any_left:
            trial = self.study.draw()
            self.books.spent.trials += 1
            self._begin(trial, {})

    def _begin(self, trial: optuna.Trial, there: Mapping[str, State]) -> None:
        """``there``: jobs that an earlier controller started."""
        open_trial = OpenTrial(trial, self._stages(trial), reported=self.study.last_step(trial.number))
        self.open[open_trial.number] = open_trial
        self.books.begin(open_trial)
        self._next_stage(open_trial, there)

    def _stages(self, trial: optuna.Trial) -> list[Experiment]:
        """As they are run: each with the name of its job, the last one starting from the one before."""
        *before, last = self.study.space.experiments(trial.params)
        for number, stage in enumerate(before):
            before[number] = stage.override({"name": f"{self.study.name}-pre-{content_hash(stage)}"})
            last = last.override({"init": str(self.launcher.weights_of(before[number].name))})
        return [*before, last.override({"name": f"{self.study.name}-{trial.number}"})]

    def _next_stage(self, open_trial: OpenTrial, there: Mapping[str, State]) -> None:
        while not open_trial.last and open_trial.job in self.books.pretrained:
            open_trial.at += 1
        name = open_trial.job
        if name in self.jobs.open:
            self.jobs.open[name].trials.append(open_trial)
            return
        job = self.jobs.open[name] = Job(open_trial.stages[open_trial.at], [open_trial], submitted=name in there)
        self.books.note_jobs(open_trial)
        if name in there:
            self.books.recall_halt(job)
            self.jobs.mend(job)
        else:
            self.jobs.submit(job)

    def succeeded(self, job: Job, status: JobStatus) -> None:
        waiting = job.trials
        if not waiting[0].last:
            self.books.charge(job, status)
            self.books.pretrain(waiting[0])
            self.jobs.forget(job)
            for open_trial in waiting:
                self._next_stage(open_trial, {})
            return
        job.numbers = self.metrics.latest(job.name) or {}
        wanted = list(self.study.space.objectives)
        values = [job.numbers[name][1] for name in wanted if name in job.numbers]
        self.books.charge(job, status)
        if len(values) < len(wanted) or not all(map(math.isfinite, values)):
            missing = [name for name in wanted if name not in job.numbers or not math.isfinite(job.numbers[name][1])]
            self.failed(job, f"it ended without {missing[0]}; it has {', '.join(sorted(job.numbers)) or 'nothing'}", [])
            return
        self._end(job, waiting[0], TrialState.COMPLETE, values)

    def _measure(self) -> None:
        """Reports what is new to the pruner, and ends what it gives up."""
        if time.monotonic() - self._measured < self.every_s:
            return
        self._measured = time.monotonic()
        try:
            found = self.metrics.running(STUDY, self.study.name)
            for open_trial in list(self.open.values()):
                job = self.jobs.open[open_trial.job]
                job.numbers = found.get(job.name, job.numbers)
                if open_trial.last and job.name in found:
                    self._report(open_trial, job)
        except Unreachable as error:
            log.warning("no numbers: %s", error)

    def _report(self, open_trial: OpenTrial, job: Job) -> None:
        """Every value, as pruners compare trials at the same step."""
        metric = self.study.space.prune or ""
        if job.numbers.get(metric, (-1, 0.0))[0] <= open_trial.reported:
            return
        for step, value in self.metrics.history(job.name, metric):
            if step > open_trial.reported and math.isfinite(value):
                open_trial.trial.report(value, step)
                open_trial.reported = step
        if open_trial.trial.should_prune():
            self.books.charge(job, self.jobs.status(job))
            self._end(job, open_trial, TrialState.PRUNED, reason=f"{metric} at step {open_trial.reported}")

    def failed(self, job: Job, reason: str, lines: Sequence[str]) -> None:
        """Raises EverestError where this was the same fault once too often."""
        log.warning("%s failed: %s", job.name, reason)
        for open_trial in list(job.trials):
            open_trial.trial.set_user_attr(LINES, list(lines))
            self._end(job, open_trial, TrialState.FAIL, reason=reason)
        self.books.count_fault(job, reason)

    def _end(
        self,
        job: Job,
        open_trial: OpenTrial,
        state: TrialState,
        values: list[float] | None = None,
        reason: str = "",
    ) -> None:
        """Told first, removed then."""
        self.books.end(job, open_trial, state, values, reason)
        del self.open[open_trial.number]
        job.trials.remove(open_trial)
        if not job.trials:
            self.jobs.forget(job)

    def _hear(self) -> None:
        """Raises Stopped where somebody wants that."""
        if time.monotonic() - self._asked_to_stop < min(_STOP_EVERY_S, 3 * self.every_s):
            return
        self._asked_to_stop = time.monotonic()
        self.books.note_active()
        if asked := self.study.stop_asked:
            raise Stopped(asked)


class Show(Protocol):
    def __call__(self, controller: Controller) -> None: ...


class Stopped(EverestError):
    """Somebody asked the sweep to stop; ``jobs`` says what becomes of its jobs: leave or cancel."""

    def __init__(self, jobs: str) -> None:
        super().__init__(f"stopped; its jobs {'are cancelled' if jobs == 'cancel' else 'go on'}")
        self.jobs = jobs
