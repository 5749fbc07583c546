"""Jobs on this machine: torchrun in the background, one folder of the work folder each."""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from everest.errors import UsageError
from everest.files import write_text
from orchestration.job import (
    AGAIN,
    ENDED,
    Following,
    JobSpec,
    JobStatus,
    LogsMissing,
    NameInUseError,
    State,
    UnknownJobError,
    require_rank,
)
from orchestration.provenance import TAGS
from orchestration.settings import PlatformSettings

_JOB, _LOG, _RECIPE, _EXIT_CODE = "job.json", "log.txt", "job.yaml", "exit-code"
_LAST_WORDS_S = 15  # beyond the grace, for torchrun
_LOOK_EVERY_S = 0.3


class LocalLauncher:
    def __init__(self, settings: PlatformSettings) -> None:
        self.settings, self.work = settings, settings.work.resolve()

    def dry_run(self, spec: JobSpec) -> str:
        return f"{' '.join(self._command(spec))}\n\n# {self._file(spec.name, _RECIPE)}\n{spec.experiment.to_yaml()}"

    def check(self, spec: JobSpec) -> None:
        """Nothing: what is wrong with a run of this machine it says itself, at once."""

    def submit(self, spec: JobSpec) -> None:
        with suppress(UnknownJobError):
            state = self.status(spec.name).state
            if state not in ENDED:
                raise NameInUseError(
                    f"{spec.name} is {state} here already; everest-jobs cancel {spec.name} ends it, "
                    f"or choose another --name"
                )
        write_text(self._file(spec.name, _RECIPE), spec.experiment.to_yaml())
        self._file(spec.name, _EXIT_CODE).unlink(missing_ok=True)
        with self._file(spec.name, _LOG).open("w") as log:
            process = subprocess.Popen(
                self._command(spec),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "EVEREST_WORK": str(self.work), TAGS: json.dumps(dict(spec.tags))},
            )
        started = psutil.Process(process.pid).create_time()
        job = {"pid": process.pid, "started": started, "group": spec.group, "processes": self.gpus}
        write_text(self._file(spec.name, _JOB), json.dumps(job))

    def mend(self, spec: JobSpec) -> None:
        """Nothing: a job of this machine has read its recipe."""

    def status(self, name: str) -> JobStatus:
        job = self._job(name)
        running, noted = self._process(name), self._file(name, _EXIT_CODE)
        code = int(noted.read_text()) if noted.exists() else None
        state: State = "running" if running else "succeeded" if code == 0 else "failed"
        created = datetime.fromtimestamp(job["started"], UTC)
        ended = datetime.fromtimestamp(noted.stat().st_mtime, UTC) if code is not None else None
        reason = self._last_line(name) or "it was killed" if state == "failed" else ""
        return JobStatus(
            name=name,
            state=state,
            created=created,
            started=created,
            ended=ended,
            reason=reason,
            interrupted=state == "failed" and (code is None or code == AGAIN or code >= 128),
            nodes=(os.uname().nodename,),
            exit_code=code,
        )

    def logs(self, name: str, rank: int | None = None, follow: bool = False, last: int | None = None) -> Iterator[str]:
        require_rank(name, rank, self._job(name).get("processes", self.gpus))
        process, half = self._process(name), ""
        try:
            log = self._file(name, _LOG).open(errors="replace")
        except FileNotFoundError as error:
            raise LogsMissing(f"{error.filename} is gone, and what {name} said with it") from None
        with log:
            lines = iter(deque(log, last) if last is not None else log)
            while True:
                running = follow and process is not None and _lives(process)
                for part in lines:
                    line, half = half + part, ""
                    if running and not line.endswith("\n"):
                        half = line
                    elif rank is None or line.startswith(f"[rank {rank}]"):
                        yield line.rstrip("\n")
                if not running:
                    break
                time.sleep(0.2)
                lines = iter(log)
        if half and (rank is None or half.startswith(f"[rank {rank}]")):
            yield half

    def cancel(self, name: str) -> None:
        self._job(name)
        if process := self._process(name):
            family = [process, *process.children(recursive=True)]
            process.terminate()
            with suppress(psutil.TimeoutExpired):
                process.wait(self.settings.grace_s + _LAST_WORDS_S)
            for left in filter(_lives, family):
                left.kill()
        self._file(name, _JOB).unlink(missing_ok=True)

    def list(self) -> Sequence[JobStatus]:
        return sorted(self._statuses(), key=lambda status: status.created, reverse=True)

    @contextmanager
    def follow(self, group: str) -> Iterator[Following]:
        yield _LocalJobs(self, group)

    def weights_of(self, name: str) -> Path:
        return self.settings.work / name

    @property
    def gpus(self) -> int:
        return self.settings.processes or 1

    def states(self, group: str) -> dict[str, State]:
        return {status.name: status.state for status in self._statuses(group)}

    def _statuses(self, group: str | None = None) -> Iterator[JobStatus]:
        for file in self.work.glob(f"*/{_JOB}"):
            with suppress(UnknownJobError):  # removed meanwhile
                if group is None or self._job(file.parent.name).get("group") == group:
                    yield self.status(file.parent.name)

    def _command(self, spec: JobSpec) -> Sequence[str]:
        note, recipe = self._file(spec.name, _EXIT_CODE), self._file(spec.name, _RECIPE)
        return [
            sys.executable, "-m", "orchestration.pod.torchrun", str(note), str(self.settings.grace_s),
            str(self.gpus), spec.experiment.stage, "--recipe", str(recipe),
        ]  # fmt: skip

    def _job(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self._file(name, _JOB).read_text()))
        except FileNotFoundError:
            raise UnknownJobError(f"no job {name!r} in {self.work}; everest-jobs list shows those there are") from None

    def _last_line(self, name: str) -> str:
        try:
            return next(self.logs(name, last=1), "")
        except LogsMissing as missing:
            return str(missing)

    def _process(self, name: str) -> psutil.Process | None:
        """The job's, unless it ended; another one with its number is told by when it was started."""
        job = self._job(name)
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(job["pid"]))
            if process.create_time() == job["started"] and _lives(process):
                return process
        return None

    def _file(self, name: str, file: str) -> Path:
        if "/" in name or name.startswith("."):
            raise UsageError(f"{name!r} is no name of a job")
        return self.work / name / file


class _LocalJobs:
    def __init__(self, launcher: LocalLauncher, group: str) -> None:
        self._launcher, self._group = launcher, group
        self._seen: Mapping[str, State] = {}

    def states(self) -> Mapping[str, State]:
        return self._launcher.states(self._group)

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (now := self.states()) == self._seen and time.monotonic() < deadline:
            time.sleep(min(_LOOK_EVERY_S, seconds))
        self._seen = now


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
