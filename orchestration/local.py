"""Jobs on this machine: torchrun in the background, one folder of the work folder each.

What a job is, is written before its process is there; the process writes its own number. From before it is started
until it ends the job's lock is held, by who starts it and then by the process itself, so that a job is known and
cannot be started twice, whenever who submits it is killed.
"""

import fcntl
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
from typing import Any, TextIO

import psutil
import yaml

from everest.errors import UsageError
from everest.files import locked, write_bytes, write_text
from orchestration.job import (
    AGAIN,
    EXIT_CODE,
    PROCESS,
    Following,
    JobSpec,
    JobStatus,
    LogsMissing,
    NameInUseError,
    Needs,
    State,
    UnknownJobError,
    require_rank,
)
from orchestration.log import EVERYTHING, START, Line, Starts, Wanted, stamp
from orchestration.provenance import TAGS
from orchestration.settings import PlatformSettings
from orchestration.webhook import WEBHOOK

_JOB, _LOG, _RECIPE, _LOCK = "job.json", "log.txt", "job.yaml", "lock"
_LAST_WORDS_S = 15  # beyond the grace, for torchrun
_LOOK_EVERY_S = 0.3
_STARTING_EVERY_S = 0.05


class LocalLauncher:
    def __init__(self, settings: PlatformSettings) -> None:
        self.settings, self.work = settings, settings.work.resolve()

    def dry_run(self, spec: JobSpec) -> str:
        return f"{' '.join(self._command(spec))}\n\n# {self._file(spec.name, _RECIPE)}\n{spec.experiment.to_yaml()}"

    def check(self, spec: JobSpec) -> None:
        spec.experiment.share_of(self.gpus)

    def submit(self, spec: JobSpec) -> None:
        self.check(spec)
        self._file(spec.name, _LOCK).parent.mkdir(parents=True, exist_ok=True)
        with self._file(spec.name, _LOCK).open("w") as lock, self._file(spec.name, _LOG).open("a") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NameInUseError(
                    f"{spec.name} is going on here already; everest-jobs cancel {spec.name} ends it, "
                    f"or choose another --name"
                ) from None
            for left in (PROCESS, EXIT_CODE):
                self._file(spec.name, left).unlink(missing_ok=True)
            log.write(f"{stamp(datetime.now(UTC))} {START}{spec.name} on {os.uname().nodename}\n")
            log.flush()
            write_text(self._file(spec.name, _RECIPE), spec.experiment.to_yaml())
            job = {"created": time.time(), "group": spec.group, "processes": self.gpus, "user": self.settings.user}
            write_text(self._file(spec.name, _JOB), json.dumps(job))
            subprocess.Popen(
                self._command(spec),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env=self._environment(spec),
            )

    def mend(self, spec: JobSpec) -> None:
        """Nothing: a job of this machine has read its recipe."""

    def status(self, name: str) -> JobStatus:
        job = self._job(name)
        created = datetime.fromtimestamp(job["created"], UTC)
        going_on: State | None = "pending" if self._starting(name) else "running" if self._process(name) else None
        noted = self._file(name, EXIT_CODE)
        code = int(noted.read_text()) if noted.exists() else None
        state: State = going_on or ("succeeded" if code == 0 else "failed")
        ended = datetime.fromtimestamp(noted.stat().st_mtime, UTC) if code is not None else None
        reason = self._last_line(name) or "it was killed" if state == "failed" else ""
        return JobStatus(
            name=name,
            state=state,
            created=created,
            started=None if state == "pending" else created,
            ended=ended,
            reason=reason,
            user=job.get("user", ""),
            interrupted=state == "failed" and (code is None or code == AGAIN or code >= 128),
            nodes=(os.uname().nodename,),
            exit_code=code,
        )

    def logs(
        self, name: str, wanted: Wanted = EVERYTHING, follow: bool = False, last: int | None = None
    ) -> Iterator[str]:
        require_rank(name, wanted.rank, self._job(name).get("processes", self.gpus))
        try:
            with self._file(name, _LOG).open(errors="replace", newline="\n") as log:
                if last is not None:
                    yield from _last_of_all(log, wanted, last)
                    return
                starts = Starts()
                for raw in log:
                    if START in raw:
                        starts.numbered(_parsed(raw))
                wanted.require(name, starts)
                log.seek(0)
                said = (starts.numbered(_parsed(raw)) for raw in self._whole_lines(name, log, follow))
                yield from (each.text for each in said if each in wanted)
        except FileNotFoundError as error:
            raise LogsMissing(f"{error.filename} is gone, and what {name} said with it") from None

    def _whole_lines(self, name: str, log: TextIO, follow: bool) -> Iterator[str]:
        process, half = self._started(name) if follow else None, ""
        while True:
            running = process is not None and _lives(process)
            for part in log:
                half += part
                if half.endswith("\n") or not running:
                    yield half
                    half = ""
            if not running:
                break
            time.sleep(0.2)
        if half:
            yield half

    def cancel(self, name: str) -> None:
        self._job(name)
        if process := self._started(name):
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

    def folder_of(self, name: str, rank: int) -> "_Folder":
        require_rank(name, rank, self._job(name).get("processes", self.gpus))
        return _Folder(self._file(name, _JOB).parent)

    def needs(self) -> Mapping[str, Needs]:
        names = [status.name for status in self._statuses() if status.state != "succeeded"]
        recipes = {name: yaml.safe_load(self._file(name, _RECIPE).read_text()) for name in names}
        return {name: Needs([tree["init"]] if tree.get("init") else []) for name, tree in recipes.items()}

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
        recipe = self._file(spec.name, _RECIPE)
        return [
            sys.executable, "-m", "orchestration.pod.torchrun", str(recipe.parent), str(self.settings.grace_s),
            str(self.gpus), spec.experiment.stage, "--recipe", str(recipe),
        ]  # fmt: skip

    def _environment(self, spec: JobSpec) -> dict[str, str]:
        ours = {"EVEREST_WORK": str(self.work), "EVEREST_USER": self.settings.user, TAGS: json.dumps(dict(spec.tags))}
        silent = {WEBHOOK: "", "EVEREST_NOTIFY_SECRET": ""} if spec.group else {}  # the sweep tells
        return {**os.environ, **ours, **silent}

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
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            known = json.loads(self._file(name, PROCESS).read_text())
            process = psutil.Process(int(known["pid"]))
            if process.create_time() == known["started"] and _lives(process):
                return process
        return None

    def _starting(self, name: str) -> bool:
        """Whether its process is being started and has not yet said which it is."""
        if self._file(name, PROCESS).exists():
            return False
        with locked(self._file(name, _LOCK), wait=False, shared=True) as nobody_is:
            return not nobody_is

    def _started(self, name: str) -> psutil.Process | None:
        """The job's process, once it has begun."""
        while self._starting(name):
            time.sleep(_STARTING_EVERY_S)
        return self._process(name)

    def _file(self, name: str, file: str) -> Path:
        if "/" in name or name.startswith("."):
            raise UsageError(f"{name!r} is no name of a job")
        return self.work / name / file


def _last_of_all(log: TextIO, wanted: Wanted, count: int) -> Iterator[str]:
    """Of the newest start."""
    newest: deque[str] = deque(maxlen=count)
    for raw in log:
        if START in raw and _parsed(raw).begins:
            newest.clear()
        else:
            newest.append(raw)
    yield from (line.text for line in map(_parsed, newest) if wanted.rank in {None, line.rank})


def _parsed(raw: str) -> Line:
    return Line.parse(raw.rstrip("\n"), pod=0)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._folder / name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        write_bytes(self._folder / name, content)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


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
