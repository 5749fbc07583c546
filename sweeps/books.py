"""What has become of a study's trials and what they have cost, in the study itself: the next controller reads on."""

import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from optuna.trial import TrialState

from everest.errors import EverestError
from orchestration.job import ENDED, JobStatus
from sweeps.budget import Spent
from sweeps.space import plain
from sweeps.study import GPU_S, HALTED, JOBS, PRETRAINED, REASON, RUN_S, Study
from sweeps.trial import Job, OpenTrial


class Listener(Protocol):
    """Is told of trials, for people to see. Never raises, never waits."""

    def begun(self, number: int, values: Mapping[str, object]) -> None: ...

    def ended(
        self, number: int, state: TrialState, jobs: Iterable[str], numbers: Mapping[str, float], reason: str
    ) -> None: ...


class Books:
    def __init__(self, study: Study, listener: Listener, gpus: int, same_fault: int) -> None:
        """``gpus``: of each job. ``same_fault``: failures alike in a row that are too many."""
        self.pretrained: set[str] = set()
        self.ended: dict[TrialState, int] = {}
        self.spent = Spent(0, 0, 0)
        self._study, self._listener, self._gpus, self._same_fault = study, listener, gpus, same_fault
        self._fault, self._faults = "", 0

    def take_up(self) -> None:
        """What earlier controllers have noted."""
        known = self._study.trials()
        self.pretrained = {trial.user_attrs[PRETRAINED] for trial in known if PRETRAINED in trial.user_attrs}
        for trial in known:
            self.ended[trial.state] = self.ended.get(trial.state, 0) + trial.state.is_finished()
        begun = [trial for trial in known if trial.state != TrialState.WAITING]
        gpu_s = sum(trial.user_attrs.get(GPU_S, 0.0) for trial in known)
        self.spent = Spent(len(begun), self._study.active_s, gpu_s)

    def note_active(self) -> None:
        self._study.note_active(self.spent.active_s)

    def begin(self, open_trial: OpenTrial) -> None:
        values = {name: plain(value) for name, value in open_trial.trial.params.items()}
        self._listener.begun(open_trial.number, values)

    def note_jobs(self, open_trial: OpenTrial) -> None:
        open_trial.trial.set_user_attr(JOBS, open_trial.jobs)

    def pretrain(self, open_trial: OpenTrial) -> None:
        """Its pre-training is done, for every trial that shares it."""
        open_trial.trial.set_user_attr(PRETRAINED, open_trial.job)
        self.pretrained.add(open_trial.job)

    def note_halt(self, job: Job) -> None:
        """In the study, since when a job that has run does not: the next controller counts on from there."""
        if job.state == "running":
            if not job.began or job.halted_since:
                job.began, job.halted_since = True, None
                self._remember_halt(job)
        elif job.began and not job.halted_since and job.state not in ENDED:
            job.halted_since = time.time()
            self._remember_halt(job)

    def recall_halt(self, job: Job) -> None:
        """As an earlier controller noted it."""
        halts = job.trials[0].trial.user_attrs.get(HALTED, {})
        job.began, job.halted_since = job.name in halts, halts.get(job.name)

    def charge(self, job: Job, status: JobStatus | None) -> None:
        """The job's time to the trial it was started for."""
        if status and status.started and job.submitted:
            seconds = ((status.ended or datetime.now(UTC)) - status.started).total_seconds()
            gpu_s = seconds * self._gpus
            trial = job.trials[0].trial
            trial.set_user_attr(RUN_S, trial.user_attrs.get(RUN_S, 0.0) + seconds)
            trial.set_user_attr(GPU_S, trial.user_attrs.get(GPU_S, 0.0) + gpu_s)
            self.spent.gpu_s += gpu_s

    def end(
        self, job: Job, open_trial: OpenTrial, state: TrialState, values: list[float] | None = None, reason: str = ""
    ) -> None:
        if reason:
            open_trial.trial.set_user_attr(REASON, reason)
        self._study.tell(open_trial.trial, state, values)
        self.ended[state] = self.ended.get(state, 0) + 1
        if state == TrialState.COMPLETE:
            self._faults = 0
        numbers = {name: value for name, (_, value) in job.numbers.items()} if open_trial.last else {}
        self._listener.ended(open_trial.number, state, open_trial.jobs, numbers, reason)

    def count_fault(self, job: Job, reason: str) -> None:
        """Raises EverestError where this was the same fault once too often."""
        fault = re.sub(r"\d+", "#", reason.replace(job.name, ""))
        self._faults = self._faults + 1 if fault == self._fault else 1
        self._fault = fault
        if self._faults >= self._same_fault:
            raise EverestError(f"{self._faults} jobs in a row failed alike, {self._study.name} is stopped: {reason}")

    def _remember_halt(self, job: Job) -> None:
        job.trials[0].trial.set_user_attr(HALTED, {job.name: job.halted_since})
