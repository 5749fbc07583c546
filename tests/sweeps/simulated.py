"""Jobs that are only numbers: they run, fail, are preempted and vanish as a seed says, and time is counted in ticks."""

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestration.job import (
    ENDED,
    TRIAL,
    Following,
    JobSpec,
    JobStatus,
    NameInUseError,
    State,
    UnknownJobError,
)
from orchestration.log import EVERYTHING, Wanted

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    """The controller's process ends here."""


@dataclass
class Simulated:
    spec: JobSpec
    length: int
    step: int = 0  # kept, as a checkpoint is
    state: State = "pending"
    interrupted: bool = False
    begun: int = 0
    lost: bool = False  # what its pods need, so that they wait


@dataclass
class Cluster:
    """A launcher, and where its jobs' numbers are read."""

    seed: int
    failing: float = 0.05
    preempted: float = 0.05
    pretend: Callable[[JobSpec, int], float] = lambda spec, step: float(step)
    now: int = 0
    calls: int = 0
    kill_at: int | None = None  # a call
    never_start: bool = False
    never_restart: bool = False
    jobs: dict[str, Simulated] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)  # checkpoints outlive jobs
    trained: dict[str, int] = field(default_factory=dict)  # steps computed, by run
    submissions: dict[str, int] = field(default_factory=dict)
    fates: dict[str, str] = field(default_factory=dict)
    busiest: int = 0
    gpus: int = 8

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def fate(self, name: str) -> random.Random:
        """The same for a job whenever it is asked, however it was interrupted."""
        return random.Random(f"{self.seed} {name}")

    def dry_run(self, spec: JobSpec) -> str:
        return spec.name

    def check(self, spec: JobSpec) -> None: ...

    def submit(self, spec: JobSpec) -> None:
        self._call()
        with self.lock:
            there = self.jobs.get(spec.name)
            if there and there.state not in ENDED:
                raise NameInUseError(spec.name)
            self.submissions[spec.name] = self.submissions.get(spec.name, 0) + 1
            length = self.fate(spec.name).randrange(2, 12)
            self.jobs[spec.name] = Simulated(spec, length, self.steps.get(spec.name, 0), begun=self.now)
        self._call()

    def mend(self, spec: JobSpec) -> None:
        self._call()
        with self.lock:
            self._job(spec.name).lost = False

    def status(self, name: str) -> JobStatus:
        self._call()
        with self.lock:
            job = self._job(name)
            started, ended = (EPOCH + timedelta(seconds=tick) for tick in (job.begun, self.now))
            created = EPOCH if self.never_start or self.never_restart else datetime.now(UTC)
            return JobStatus(
                name, job.state, created, "exploded", started=started, ended=ended, interrupted=job.interrupted
            )

    def logs(
        self, name: str, wanted: Wanted = EVERYTHING, follow: bool = False, last: int | None = None
    ) -> Iterator[str]:
        yield f"[rank 0] everest: {name} exploded, being number {self.fate(name).random()}"

    def cancel(self, name: str) -> None:
        with self.lock:
            self._job(name)
            del self.jobs[name]

    def list(self) -> Sequence[JobStatus]:
        return [self.status(name) for name in self.jobs]

    @contextmanager
    def follow(self, group: str) -> Iterator[Following]:
        yield self

    def weights_of(self, name: str) -> Path:
        return Path("work") / name

    def states(self) -> Mapping[str, State]:
        with self.lock:
            return {name: job.state for name, job in self.jobs.items()}

    def wait(self, seconds: float) -> None:
        """A tick."""
        self._call()
        with self.lock:
            self.now += 1
            self.busiest = max(self.busiest, sum(job.state not in ENDED for job in self.jobs.values()))
            for name, job in list(self.jobs.items()):
                if job.state not in ENDED:
                    self._advance(name, job)

    def latest(self, name: str) -> Mapping[str, tuple[int, float]] | None:
        self._call()
        step = self.steps.get(name)
        known = self.jobs.get(name)
        if not step or known is None:
            return None
        return {"val/top1": (step, self.pretend(known.spec, step)), "train/loss": (step, 1 / step)}

    def running(self, tag: str, value: str) -> Mapping[str, Mapping[str, tuple[int, float]]]:
        with self.lock:
            names = [name for name, job in self.jobs.items() if job.state == "running" and job.spec.tags[tag] == value]
        return {name: found for name in names if (found := self.latest(name))}

    def history(self, name: str, metric: str) -> Sequence[tuple[int, float]]:
        spec = self.jobs[name].spec
        return [(step, self.pretend(spec, step)) for step in range(1, self.steps[name] + 1)]

    def _advance(self, name: str, job: Simulated) -> None:
        fate = self.fate(f"{name} {self.now}")
        if job.state == "pending":
            job.state = "pending" if job.lost or self.never_start else "running"
        elif self.never_restart:
            job.state = "restarting"
        elif fate.random() < self.preempted:
            if fate.random() < 0.5:
                del self.jobs[name]
            else:
                job.state, job.interrupted = "failed", True
        else:
            if job.step < job.length:  # else it was finished before, and has only to say so again
                job.step += 1
                self.steps[name] = job.step
                self.trained[name] = self.trained.get(name, 0) + 1
            if job.step == job.length:
                job.state = "failed" if self.fate(name).random() < self.failing else "succeeded"

    def _job(self, name: str) -> Simulated:
        if name not in self.jobs:
            raise UnknownJobError(name)
        return self.jobs[name]

    def _call(self) -> None:
        self.calls += 1
        if self.kill_at is not None and self.calls >= self.kill_at:
            self.kill_at = None
            raise Killed


def trial_of(spec: JobSpec) -> int:
    return int(spec.tags[TRIAL].rpartition("/")[2])


class Silent:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, str]] = []

    def begun(self, number: int, values: Mapping[str, object]) -> None: ...

    def ended(self, number: int, state: object, jobs: object, numbers: object, reason: str) -> None:
        self.told.append((number, str(state), reason))
