"""A job is a run of an experiment somewhere: what is asked for, how it is going, who starts it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from orchestration.log import EVERYTHING, Wanted

SETTINGS_FOLDER = "/etc/everest"  # in a pod
EXPERIMENT_FILE = f"{SETTINGS_FOLDER}/experiment.yaml"
WORKDIR = "/work"
POD_IP = "EVEREST_POD_IP"  # what those of several pods find their address in
# The code that was sent along, by its digest, and where the pod has it.
CODE, CODE_FOLDER = "EVEREST_CODE", "EVEREST_CODE_FOLDER"
# When it was submitted, in seconds since 1970, and where people see MLflow: for what is told of it.
SUBMITTED, MLFLOW_PAGES = "EVEREST_SUBMITTED", "EVEREST_MLFLOW_PAGES"
RESULT = "result.json"  # in S3, of a finished run
RUN_POINTER = "mlflow-run.json"  # there too: which run in MLflow it is
AGAIN = 75  # exit code: something around the processes broke, starting again may help
FAULTY = 76  # exit code: a GPU, or what connects it, broke
UNFIT = 200  # exit code of a pod: its node has failed the check before the first step, or twice later; another may do
PROCESS, EXIT_CODE = "process.json", "exit-code"  # what a job of this machine writes: which process it is, its end
# Tags of a run that belongs to a sweep; the last is where in MLflow all of the sweep is.
STUDY, TRIAL, EXPERIMENT = "everest.study", "everest.trial", "everest.experiment"
# Of what a sweep itself is in MLflow, a run for the study and one for each trial: which of them it is, how the trial
# ended, and the study's objectives as JSON: metric -> max or min.
KIND, TRIAL_STATE, OBJECTIVES = "everest.kind", "everest.state", "everest.objectives"

State = Literal["pending", "running", "restarting", "suspended", "cancelling", "succeeded", "failed"]
SILENT_S = 120.0  # that who watches a job lets a cluster not answer
ENDED: frozenset[State] = frozenset({"succeeded", "failed"})


@dataclass(frozen=True)
class JobSpec:
    """An experiment and the commit it is run from. The job has the experiment's name."""

    experiment: Experiment
    commit: str | None = None
    submission: str = ""  # tells this submission from earlier ones of the same name
    group: str = ""  # of jobs that are followed together
    tags: Mapping[str, str] = field(default_factory=dict)  # for its run in MLflow
    code: str = ""  # digest of what was sent along; none: the image's own
    submitted: float | None = None  # seconds since 1970

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def config_hash(self) -> str:
        return sha256(self.experiment.to_yaml().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobStatus:
    name: str
    state: State
    created: datetime
    reason: str = ""  # why it does not start, or failed: a sentence
    hopeless: bool = False  # it will not start unless somebody changes something
    nodes: tuple[str, ...] = ()
    avoids: tuple[str, ...] = ()  # nodes that its pods keep away from
    exit_code: int | None = None  # of the pod or process that failed
    image: str = ""  # as it was pulled, with its digest
    started: datetime | None = None  # the last time that its pods began to run
    ended: datetime | None = None
    replaced: bool = False  # pods of it were ended and made anew: it has run before it failed
    user: str = ""  # who submitted it
    interrupted: bool = False  # it failed because something ended it from outside; submitting again continues it


class UnknownJobError(UsageError):
    """There is no job of that name."""


class NameInUseError(EverestError):
    """A job of that name is going on."""


class Unreachable(EverestError):
    """Nobody answers; that may pass."""


class LogsMissing(EverestError):
    """What some of a job's processes said is not there, or not any more."""


class RunFolder(Protocol):
    """The folder of a run where a process of it works. Every call raises Unreachable where it cannot be had."""

    def read(self, name: str) -> bytes | None:
        """What the file says; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all."""

    def remove(self, name: str) -> None:
        """Or does nothing where there is none."""


class Following(Protocol):
    """The jobs of one group, kept current without asking for each. Used from one thread."""

    def states(self) -> Mapping[str, State]:
        """Of all jobs there are, by name. One that was submitted a moment ago may still lack."""

    def wait(self, seconds: float) -> None:
        """Returns when something changed since the last call, or after so long."""


class Needs(NamedTuple):
    """What has to be there for a job to begin or to go on."""

    inits: Collection[str] = ()  # what it begins from, as work/NAME
    code: str = ""  # digest of what was sent along


class Launcher(Protocol):
    """Starts jobs and tells how they are. A job that ended stays to be looked at until its name is used again."""

    def dry_run(self, spec: JobSpec) -> str:
        """What ``submit`` would start, for a person to read. Changes nothing."""

    def check(self, spec: JobSpec) -> None:
        """Raises UsageError for what can be known before the job starts. Changes nothing."""

    def submit(self, spec: JobSpec) -> None:
        """Checks and starts the job, or continues the run of that name. Raises NameInUseError while it is going on."""

    def mend(self, spec: JobSpec) -> None:
        """Makes again what the job, submitted earlier, needs and has lost. Raises UnknownJobError."""

    def status(self, name: str) -> JobStatus:
        """Raises UnknownJobError."""

    def logs(
        self, name: str, wanted: Wanted = EVERYTHING, follow: bool = False, last: int | None = None
    ) -> Iterator[str]:
        """Lines as ``[rank 3] text``: all that were said under that name, in order, or those that are ``wanted``.

        With ``follow`` until the job ends; with ``last`` so many of each pod that there is. Raises UnknownJobError,
        UsageError for a rank or start that there is not and, after the lines there are, LogsMissing.
        """

    def cancel(self, name: str) -> None:
        """Ends the job and forgets it; it has the settings' grace to save a checkpoint. Raises UnknownJobError."""

    def list(self) -> Sequence[JobStatus]:
        """All jobs of this project, the newest first."""

    def follow(self, group: str) -> AbstractContextManager[Following]:
        """Watches the jobs of a group."""

    def weights_of(self, name: str) -> Path:
        """What another job's ``init`` calls the run of that name."""

    def folder_of(self, name: str, rank: int) -> RunFolder:
        """Where that process of the job works. Raises UnknownJobError, UsageError where the job has no such process."""

    def needs(self) -> Mapping[str, Needs]:
        """Of all that go on, or may be continued: jobs, and what starts jobs by itself."""

    @property
    def gpus(self) -> int:
        """That one job takes (of this machine: its processes)."""


def require_rank(name: str, rank: int | None, processes: int) -> None:
    """Raises UsageError where a job of so many processes does not have it."""
    if rank is not None and not 0 <= rank < processes:
        ranks = f"the ranks 0 to {processes - 1}" if processes > 1 else "the rank 0 alone"
        raise UsageError(f"--rank {rank}: {name} has {ranks}")
