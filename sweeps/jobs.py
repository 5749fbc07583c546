"""What a controller asks of a launcher: to start jobs, how they go, to start them again, to remove them."""

import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from everest.errors import EverestError
from orchestration.job import (
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
from sweeps.books import Books
from sweeps.budget import Budget
from sweeps.removals import Removals
from sweeps.study import RUN_S, Study
from sweeps.trial import Job, Numbers

log = logging.getLogger(__name__)

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


class Ends(Protocol):
    """Is told of jobs that ended for good."""

    def succeeded(self, job: Job, status: JobStatus) -> None: ...

    def failed(self, job: Job, reason: str, lines: Sequence[str]) -> None: ...


class Jobs:
    """Those of one study that trials wait for."""

    def __init__(
        self,
        study: Study,
        launcher: Launcher,
        metrics: Metrics,
        budget: Budget,
        books: Books,
        ends: Ends,
        every_s: float,
        code: str = "",
    ) -> None:
        self.open: dict[str, Job] = {}
        self._study, self._launcher, self._metrics, self._budget = study.name, launcher, metrics, budget
        self._books, self._ends, self._every_s = books, ends, every_s
        self._commit, self._code = commit(), code
        self._tags = {STUDY: study.name, EXPERIMENT: study.space.mlflow_experiment}
        self._removals = Removals(launcher, every_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Waits until those that nobody needs are gone."""
        self._removals.__exit__(*error)

    def submit(self, job: Job) -> None:
        if self._removals.under_way(job.name):  # an earlier job of that name; asked again in a moment
            return
        try:
            self._launcher.submit(self._spec(job))
        except Unreachable as error:
            log.warning("%s: %s; trying again", job.name, error)
            return
        except NameInUseError as error:
            if job.name not in self.names():  # else it was submitted before, and the answer was lost
                self._ends.failed(job, str(error), [])
                return
        except EverestError as error:
            self._ends.failed(job, str(error), [])
            return
        job.submitted, job.state, job.asked = True, "pending", time.monotonic()
        job.began, job.halted_since = False, None

    def mend(self, job: Job) -> None:
        """Of a job that an earlier controller started, or was about to, when it was killed."""
        try:
            self._launcher.mend(self._spec(job))
        except UnknownJobError:  # it is seen to be gone
            return
        except Unreachable as error:
            log.warning("%s: %s; trying again", job.name, error)
            job.submitted = False

    def look(self, states: Mapping[str, State]) -> None:
        """What has become of each job. What is followed may lag behind: an end is believed once the job says so."""
        for job in list(self.open.values()):
            if not job.submitted:
                self.submit(job)
                continue
            job.state = states.get(job.name, "pending")
            self._books.note_halt(job)
            missing = job.name not in states and time.monotonic() - job.asked >= self._every_s  # else it is just new
            try:
                if missing or job.state in {"succeeded", "failed"}:
                    self._settle(job)
                elif job.state != "running":
                    self._diagnose(job)
                elif self._budget.trial_hours:
                    self._end_overdue(job, self._budget.trial_hours)
            except Unreachable as error:
                log.warning("%s: %s; asking again", job.name, error)

    def status(self, job: Job) -> JobStatus | None:
        try:
            return self._launcher.status(job.name)
        except EverestError:
            return None

    def forget(self, job: Job) -> None:
        del self.open[job.name]
        self._removals.begin(job.name)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._removals.begin(name)

    def any_left(self, states: Mapping[str, State]) -> bool:
        """Whether one that nobody needs is still there."""
        return self._removals.any_left(states)

    def names(self) -> set[str]:
        with self._launcher.follow(self._study) as jobs:
            return set(jobs.states())

    def _spec(self, job: Job) -> JobSpec:
        tags = {**self._tags, TRIAL: f"{self._study}/{job.trials[0].number}"}
        return JobSpec(job.experiment, self._commit, uuid.uuid4().hex[:12], self._study, tags, self._code)

    def _settle(self, job: Job) -> None:
        try:
            status = self._launcher.status(job.name)
        except UnknownJobError:
            self._go_on(job, "its job was removed")
            return
        if status.state == "succeeded":
            self._ends.succeeded(job, status)
        elif status.state == "failed":
            if status.interrupted:
                self._go_on(job, status.reason, status)
            else:
                self._books.charge(job, status)
                lines = self._last_lines(job)
                said = [line.partition("everest: ")[2] for line in lines if "everest: " in line]
                self._ends.failed(job, said[0] if said else status.reason, lines)

    def _last_lines(self, job: Job) -> Sequence[str]:
        """The machine they were on may be gone."""
        try:
            return telling(list(self._launcher.logs(job.name, last=10 * _LINES)))[-_LINES:]
        except EverestError as error:
            return [f"(what it said cannot be read: {error})"]

    def _go_on(self, job: Job, why: str, status: JobStatus | None = None) -> None:
        """Preempted, evicted, removed: the same run again, from its newest checkpoint."""
        job.numbers = self._metrics.latest(job.name) or job.numbers
        self._books.charge(job, status)
        step = job.step
        job.fruitless = 0 if step > job.continued_at else job.fruitless + 1
        job.continued_at = step
        if job.fruitless > _FRUITLESS:
            self._ends.failed(job, f"{why}, {_FRUITLESS} times without a further step", [])
            return
        log.info("%s is continued: %s", job.name, why)
        self.submit(job)

    def _diagnose(self, job: Job) -> None:
        """Of a job that does not start, or start again, now and then, whether it ever can."""
        if time.monotonic() - job.asked < _DIAGNOSE_EVERY_S:
            return
        job.asked = time.monotonic()
        try:
            status = self._launcher.status(job.name)
        except UnknownJobError:
            return
        waited = time.time() - (job.halted_since or (status.started or status.created).timestamp())
        if waited > self._budget.start_hours * 3600:
            why = f": {status.reason}" if status.reason else ""
            self._ends.failed(job, f"did not start in --start-hours {self._budget.start_hours:g}{why}", [])
        elif job.began or not status.hopeless:
            job.hopeless_since = None
        elif job.hopeless_since is None:
            job.hopeless_since = time.monotonic()
        elif time.monotonic() - job.hopeless_since > _NEVER_STARTS_S:
            self._ends.failed(job, f"cannot start: {status.reason}", [])

    def _end_overdue(self, job: Job, hours: float) -> None:
        """Of a job that runs, now and then, whether its trial has run too long."""
        if time.monotonic() - job.asked < min(_OVERDUE_EVERY_S, hours * 3600):
            return
        job.asked = time.monotonic()
        status = self.status(job)
        if status is None or status.started is None:
            return
        charged_s = job.trials[0].trial.user_attrs.get(RUN_S, 0.0)
        if charged_s + (datetime.now(UTC) - status.started).total_seconds() > hours * 3600:
            self._books.charge(job, status)
            self._ends.failed(job, f"ran longer than --trial-hours {hours:g}", self._last_lines(job))
