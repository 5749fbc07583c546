"""A job is a run of an experiment somewhere: what is asked for, how it is going, who starts it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Literal, Protocol

from everest.config import Experiment
from everest.errors import EverestError, UsageError

EXPERIMENT_FILE = "/etc/everest/experiment.yaml"  # in a pod
WORKDIR = "/work"
RESULT = "result.json"  # in S3, of a finished run

State = Literal["pending", "running", "restarting", "suspended", "cancelling", "succeeded", "failed"]
ENDED: frozenset[State] = frozenset({"succeeded", "failed"})


@dataclass(frozen=True)
class JobSpec:
    """An experiment and the commit it is run from. The job has the experiment's name."""

    experiment: Experiment
    commit: str | None = None
    submission: str = ""  # tells this submission from earlier ones of the same name

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
    exit_code: int | None = None  # of the pod or process that failed
    image: str = ""  # as it was pulled, with its digest


class UnknownJobError(UsageError):
    """There is no job of that name."""


class NameInUseError(EverestError):
    """A job of that name is going on."""


class Launcher(Protocol):
    """Starts jobs and tells how they are. A job that ended stays to be looked at until its name is used again."""

    def dry_run(self, spec: JobSpec) -> str:
        """What ``submit`` would start, for a person to read. Changes nothing."""

    def submit(self, spec: JobSpec) -> None:
        """Starts the job, or continues the run of that name. Raises NameInUseError while it is going on."""

    def status(self, name: str) -> JobStatus:
        """Raises UnknownJobError."""

    def logs(self, name: str, rank: int | None = None, follow: bool = False, last: int | None = None) -> Iterator[str]:
        """Lines as ``[rank 3] text``, of one process or of all.

        With ``follow`` until the job ends, with ``last`` only so many of each pod.
        """

    def cancel(self, name: str) -> None:
        """Ends the job and forgets it; it has the settings' grace to save a checkpoint. Raises UnknownJobError."""

    def list(self) -> Sequence[JobStatus]:
        """All jobs of this project, the newest first."""
