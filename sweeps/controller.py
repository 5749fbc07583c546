"""Runs a study: draws trials, has their stages run as jobs, prunes and records them.

Whatever is needed to go on is in the study and in the jobs themselves, never only here: a controller may be killed at
any moment, and the next one takes up the same trials and jobs. Two rules make that so. A job's name follows from its
study and trial (a shared pre-training's from its settings). And a trial is told before its job is removed, so that a
job without a trial is one that nobody needs.
"""

import logging
import math
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import optuna
from optuna.trial import TrialState

from everest.config import Experiment
from everest.errors import EverestError
from orchestration.job import (
    ENDED,
    EXPERIMENT,
    STUDY,
    TRIAL,
    JobSpec,
    JobStatus,
    Launcher,
    NameInUseError,
    State,
    UnknownJobError,
    Unreachable,
)
from orchestration.provenance import commit
from orchestration.watch import telling
from sweeps.budget import Budget, Spent
from sweeps.interrupts import Interrupts
from sweeps.removals import Removals
from sweeps.space import content_hash, plain
from sweeps.study import GPU_S, HALTED, JOBS, LINES, PRETRAINED, REASON, RUN_S, Study
from sweeps.trial import Job, Numbers, OpenTrial

log = logging.getLogger(__name__)

_EVERY_S = 5.0
_STOP_EVERY_S = 15.0
_DIAGNOSE_EVERY_S = 60.0
_NEVER_STARTS_S = 120.0
_OVERDUE_EVERY_S = 30.0
_FRUITLESS = 5  # continuations of a job without a further step in between
_LINES = 20


class Metrics(Protocol):
    """Where jobs' numbers are read. Raises Unreachable while nobody answers."""

    def latest(self, name: str) -> Numbers | None:
        """Of one run, by its name; None where it is not known."""

    def running(self, tag: str, value: str) -> Mapping[str, Numbers]:
        """Of all runs with that tag that go on, by name."""

    def history(self, name: str, metric: str) -> Sequence[tuple[int, float]]:
        """All of one metric, by step, of a run that goes on."""


class Listener(Protocol):
    """Is told of trials, for people to see. Never raises, never waits."""

    def begun(self, number: int, values: Mapping[str, object]) -> None: ...

    def ended(
        self, number: int, state: TrialState, jobs: Iterable[str], numbers: Mapping[str, float], reason: str
    ) -> None: ...


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
    ) -> None:
        self.study, self.launcher, self.metrics, self.budget, self.listener = study, launcher, metrics, budget, listener
        self.same_fault, self.every_s = same_fault, every_s
        self.open: dict[int, OpenTrial] = {}
        self.jobs: dict[str, Job] = {}
        self.pretrained: set[str] = set()
        self.ended: dict[TrialState, int] = {}
        self.spent = Spent(0, 0, 0)
        self._fault, self._faults = "", 0
        self._commit = commit()
        self._tags = {STUDY: study.name, EXPERIMENT: study.space.mlflow_experiment}
        self._removals = Removals(launcher, every_s)
        self._asked_to_stop = self._measured = time.monotonic()

    def run(self, show: "Show", interrupts: Interrupts) -> None:
        """Until the budget is used and every trial has ended.

        Raises Stopped where somebody asked for it and Interrupted by a signal: ``leave`` or ``cancel`` is to be called
        then. Raises EverestError where trials fail one after another for one reason.
        """
        with self.launcher.follow(self.study.name) as jobs, self._removals:
            self.study.ask_to_stop(None)
            self._take_up(jobs.states())
            while True:
                self._fill()
                show(self)
                if not self.open:
                    break
                with interrupts.allowed():
                    jobs.wait(self.every_s)
                self._look(jobs.states())
                self._measure()
                self._hear()
            while self._removals.any_left(jobs.states()):
                with interrupts.allowed():
                    jobs.wait(1)
        self.study.note_active(self.spent.active_s)

    def cancel(self) -> None:
        """Ends all jobs, with a checkpoint each; their trials wait for another controller."""
        for open_trial in self.open.values():
            self.study.put_back(open_trial.trial)
        with Removals(self.launcher, self.every_s) as removals:
            removals.all_of(self._names_in_group())
        self.leave()

    def leave(self) -> None:
        """Ends the watching; jobs go on, and are taken up by the next controller."""
        self.study.note_active(self.spent.active_s)

    def _take_up(self, states: Mapping[str, State]) -> None:
        known = self.study.trials()
        self.pretrained = {trial.user_attrs[PRETRAINED] for trial in known if PRETRAINED in trial.user_attrs}
        for trial in known:
            self.ended[trial.state] = self.ended.get(trial.state, 0) + trial.state.is_finished()
        begun = [trial for trial in known if trial.state != TrialState.WAITING]
        gpu_s = sum(trial.user_attrs.get(GPU_S, 0.0) for trial in known)
        self.spent = Spent(len(begun), self.study.active_s, gpu_s)
        for left in self.study.take_up():
            self._begin(left, states)
        for orphan in states.keys() - self.jobs.keys():
            self._removals.begin(orphan)
        if self.open:
            log.info("%s: %d trials of an earlier controller go on", self.study.name, len(self.open))

    def _fill(self) -> None:
        while len(self.open) < self.budget.parallel and self.spent.within(self.budget) and self.study.any_left:
            trial = self.study.draw()
            self.spent.trials += 1
            self._begin(trial, {})

    def _begin(self, trial: optuna.Trial, there: Mapping[str, State]) -> None:
        """``there``: jobs that an earlier controller started."""
        open_trial = OpenTrial(trial, self._stages(trial), reported=self.study.last_step(trial.number))
        self.open[open_trial.number] = open_trial
        self.listener.begun(open_trial.number, {name: plain(value) for name, value in trial.params.items()})
        self._next_stage(open_trial, there)

    def _stages(self, trial: optuna.Trial) -> list[Experiment]:
        """As they are run: each with the name of its job, the last one starting from the one before."""
        *before, last = self.study.space.experiments(trial.params)
        for number, stage in enumerate(before):
            before[number] = stage.override({"name": f"{self.study.name}-pre-{content_hash(stage)}"})
            last = last.override({"init": str(self.launcher.weights_of(before[number].name))})
        return [*before, last.override({"name": f"{self.study.name}-{trial.number}"})]

    def _next_stage(self, open_trial: OpenTrial, there: Mapping[str, State]) -> None:
        while not open_trial.last and open_trial.job in self.pretrained:
            open_trial.at += 1
        name = open_trial.job
        if name in self.jobs:
            self.jobs[name].trials.append(open_trial)
            return
        self.jobs[name] = Job(open_trial.stages[open_trial.at], [open_trial], submitted=name in there)
        open_trial.trial.set_user_attr(JOBS, [stage.name for stage in open_trial.stages[: open_trial.at + 1]])
        if name in there:
            halts = open_trial.trial.user_attrs.get(HALTED, {})
            self.jobs[name].began, self.jobs[name].halted_since = name in halts, halts.get(name)
            self._mend(self.jobs[name])
        else:
            self._submit(self.jobs[name])

    def _submit(self, job: Job) -> None:
        if self._removals.under_way(job.name):  # an earlier job of that name; asked again in a moment
            return
        try:
            self.launcher.submit(self._spec(job))
        except Unreachable as error:
            log.warning("%s: %s; trying again", job.name, error)
            return
        except NameInUseError as error:
            if job.name not in self._names_in_group():  # else it was submitted before, and the answer was lost
                self._fail(job, str(error), [])
                return
        except EverestError as error:
            self._fail(job, str(error), [])
            return
        job.submitted, job.state, job.asked = True, "pending", time.monotonic()
        job.began, job.halted_since = False, None

    def _mend(self, job: Job) -> None:
        """Of a job that an earlier controller started, or was about to, when it was killed."""
        try:
            self.launcher.mend(self._spec(job))
        except UnknownJobError:  # it is seen to be gone
            return
        except Unreachable as error:
            log.warning("%s: %s; trying again", job.name, error)
            job.submitted = False

    def _spec(self, job: Job) -> JobSpec:
        tags = {**self._tags, TRIAL: f"{self.study.name}/{job.trials[0].number}"}
        return JobSpec(job.experiment, self._commit, uuid.uuid4().hex[:12], self.study.name, tags)

    def _names_in_group(self) -> set[str]:
        with self.launcher.follow(self.study.name) as jobs:
            return set(jobs.states())

    def _look(self, states: Mapping[str, State]) -> None:
        """What has become of each job. What is followed may lag behind: an end is believed once the job says so."""
        for job in list(self.jobs.values()):
            if not job.submitted:
                self._submit(job)
                continue
            job.state = states.get(job.name, "pending")
            self._note_halt(job)
            missing = job.name not in states and time.monotonic() - job.asked >= self.every_s  # else it is just new
            try:
                if missing or job.state in {"succeeded", "failed"}:
                    self._settle(job)
                elif job.state != "running":
                    self._diagnose(job)
                elif self.budget.trial_hours:
                    self._end_overdue(job, self.budget.trial_hours)
            except Unreachable as error:
                log.warning("%s: %s; asking again", job.name, error)

    def _note_halt(self, job: Job) -> None:
        """In the study, since when a job that has run does not: the next controller counts on from there."""
        if job.state == "running":
            if not job.began or job.halted_since:
                job.began, job.halted_since = True, None
                self._remember_halt(job)
        elif job.began and not job.halted_since and job.state not in ENDED:
            job.halted_since = time.time()
            self._remember_halt(job)

    def _remember_halt(self, job: Job) -> None:
        job.trials[0].trial.set_user_attr(HALTED, {job.name: job.halted_since})

    def _settle(self, job: Job) -> None:
        try:
            status = self.launcher.status(job.name)
        except UnknownJobError:
            self._go_on(job, "its job was removed")
            return
        if status.state == "succeeded":
            self._succeed(job, status)
        elif status.state == "failed":
            if status.interrupted:
                self._go_on(job, status.reason, status)
            else:
                self._charge(job, status)
                lines = self._last_lines(job)
                said = [line.partition("everest: ")[2] for line in lines if "everest: " in line]
                self._fail(job, said[0] if said else status.reason, lines)

    def _last_lines(self, job: Job) -> Sequence[str]:
        """The machine they were on may be gone."""
        try:
            return telling(list(self.launcher.logs(job.name, last=10 * _LINES)))[-_LINES:]
        except EverestError as error:
            return [f"(what it said cannot be read: {error})"]

    def _go_on(self, job: Job, why: str, status: JobStatus | None = None) -> None:
        """Preempted, evicted, removed: the same run again, from its newest checkpoint."""
        job.numbers = self.metrics.latest(job.name) or job.numbers
        self._charge(job, status)
        step = job.step
        job.fruitless = 0 if step > job.continued_at else job.fruitless + 1
        job.continued_at = step
        if job.fruitless > _FRUITLESS:
            self._fail(job, f"{why}, {_FRUITLESS} times without a further step", [])
            return
        log.info("%s is continued: %s", job.name, why)
        self._submit(job)

    def _diagnose(self, job: Job) -> None:
        """Of a job that does not start, or start again, now and then, whether it ever can."""
        if time.monotonic() - job.asked < _DIAGNOSE_EVERY_S:
            return
        job.asked = time.monotonic()
        try:
            status = self.launcher.status(job.name)
        except UnknownJobError:
            return
        waited = time.time() - (job.halted_since or (status.started or status.created).timestamp())
        if waited > self.budget.start_hours * 3600:
            why = f": {status.reason}" if status.reason else ""
            self._fail(job, f"did not start in --start-hours {self.budget.start_hours:g}{why}", [])
        elif job.began or not status.hopeless:
            job.hopeless_since = None
        elif job.hopeless_since is None:
            job.hopeless_since = time.monotonic()
        elif time.monotonic() - job.hopeless_since > _NEVER_STARTS_S:
            self._fail(job, f"cannot start: {status.reason}", [])

    def _end_overdue(self, job: Job, hours: float) -> None:
        """Of a job that runs, now and then, whether its trial has run too long."""
        if time.monotonic() - job.asked < min(_OVERDUE_EVERY_S, hours * 3600):
            return
        job.asked = time.monotonic()
        status = self._status(job)
        if status is None or status.started is None:
            return
        charged_s = job.trials[0].trial.user_attrs.get(RUN_S, 0.0)
        if charged_s + (datetime.now(UTC) - status.started).total_seconds() > hours * 3600:
            self._charge(job, status)
            self._fail(job, f"ran longer than --trial-hours {hours:g}", self._last_lines(job))

    def _succeed(self, job: Job, status: JobStatus) -> None:
        waiting = job.trials
        if not waiting[0].last:
            self._charge(job, status)
            waiting[0].trial.set_user_attr(PRETRAINED, job.name)
            self.pretrained.add(job.name)
            self._forget(job)
            for open_trial in waiting:
                self._next_stage(open_trial, {})
            return
        job.numbers = self.metrics.latest(job.name) or {}
        wanted = list(self.study.space.objectives)
        values = [job.numbers[name][1] for name in wanted if name in job.numbers]
        self._charge(job, status)
        if len(values) < len(wanted) or not all(map(math.isfinite, values)):
            missing = [name for name in wanted if name not in job.numbers or not math.isfinite(job.numbers[name][1])]
            self._fail(job, f"it ended without {missing[0]}; it has {', '.join(sorted(job.numbers)) or 'nothing'}", [])
            return
        self._faults = 0
        self._end(job, waiting[0], TrialState.COMPLETE, values)

    def _measure(self) -> None:
        """Reports what is new to the pruner, and ends what it gives up."""
        if time.monotonic() - self._measured < self.every_s:
            return
        self._measured = time.monotonic()
        try:
            found = self.metrics.running(STUDY, self.study.name)
            for open_trial in list(self.open.values()):
                job = self.jobs[open_trial.job]
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
            self._charge(job, self._status(job))
            self._end(job, open_trial, TrialState.PRUNED, reason=f"{metric} at step {open_trial.reported}")

    def _status(self, job: Job) -> JobStatus | None:
        try:
            return self.launcher.status(job.name)
        except EverestError:
            return None

    def _fail(self, job: Job, reason: str, lines: Sequence[str]) -> None:
        """Raises EverestError where this was the same fault once too often."""
        log.warning("%s failed: %s", job.name, reason)
        for open_trial in list(job.trials):
            open_trial.trial.set_user_attr(LINES, list(lines))
            self._end(job, open_trial, TrialState.FAIL, reason=reason)
        fault = re.sub(r"\d+", "#", reason.replace(job.name, ""))
        self._faults = self._faults + 1 if fault == self._fault else 1
        self._fault = fault
        if self._faults >= self.same_fault:
            raise EverestError(f"{self._faults} jobs in a row failed alike, {self.study.name} is stopped: {reason}")

    def _end(
        self,
        job: Job,
        open_trial: OpenTrial,
        state: TrialState,
        values: list[float] | None = None,
        reason: str = "",
    ) -> None:
        """Told first, removed then."""
        if reason:
            open_trial.trial.set_user_attr(REASON, reason)
        self.study.tell(open_trial.trial, state, values)
        self.ended[state] = self.ended.get(state, 0) + 1
        del self.open[open_trial.number]
        numbers = {name: value for name, (_, value) in job.numbers.items()} if open_trial.last else {}
        jobs = [stage.name for stage in open_trial.stages[: open_trial.at + 1]]
        self.listener.ended(open_trial.number, state, jobs, numbers, reason)
        job.trials.remove(open_trial)
        if not job.trials:
            self._forget(job)

    def _charge(self, job: Job, status: JobStatus | None) -> None:
        """The job's time to the trial it was started for."""
        if status and status.started and job.submitted:
            seconds = ((status.ended or datetime.now(UTC)) - status.started).total_seconds()
            gpu_s = seconds * self.launcher.gpus
            trial = job.trials[0].trial
            trial.set_user_attr(RUN_S, trial.user_attrs.get(RUN_S, 0.0) + seconds)
            trial.set_user_attr(GPU_S, trial.user_attrs.get(GPU_S, 0.0) + gpu_s)
            self.spent.gpu_s += gpu_s

    def _forget(self, job: Job) -> None:
        del self.jobs[job.name]
        self._removals.begin(job.name)

    def _hear(self) -> None:
        """Raises Stopped where somebody wants that."""
        if time.monotonic() - self._asked_to_stop < min(_STOP_EVERY_S, 3 * self.every_s):
            return
        self._asked_to_stop = time.monotonic()
        self.study.note_active(self.spent.active_s)
        if asked := self.study.stop_asked:
            raise Stopped(asked)


class Show(Protocol):
    def __call__(self, controller: Controller) -> None: ...


class Stopped(EverestError):
    """Somebody asked the sweep to stop; ``jobs`` says what becomes of its jobs: leave or cancel."""

    def __init__(self, jobs: str) -> None:
        super().__init__(f"stopped; its jobs {'are cancelled' if jobs == 'cancel' else 'go on'}")
        self.jobs = jobs
