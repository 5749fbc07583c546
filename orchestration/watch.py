"""Waits for a job and shows how it goes."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from everest.errors import EverestError, UsageError
from everest.progress import console
from orchestration.job import ENDED, SILENT_S, JobStatus, Launcher, UnknownJobError
from orchestration.log import Wanted

_EVERY_S = 2.0
_LINE_EVERY_S = 15.0
_HOPELESS_S = 20.0  # an image may be missing for a moment
_LAST_LINES = 20


class JobFailed(EverestError):
    """The job did not succeed; ``exit_code`` is 2 where it was asked for something impossible."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def wait(launcher: Launcher, name: str) -> JobStatus:
    """Returns when the job succeeded. Raises JobFailed, with the failing pod's last lines shown.

    A job that cannot start, or was started wrongly, is removed: it leaves nothing behind. One that has run is not,
    whatever hinders its restart or ends it; and a cluster that does not answer for a while is asked again.
    """
    shown = Display(name)
    hopeless_since: float | None = None
    silent_since: float | None = None
    started = False
    with console.status(name) as live:
        while True:
            try:
                status = launcher.status(name)
            except UnknownJobError:
                raise JobFailed(f"{name} was cancelled") from None
            except UsageError:
                raise
            except EverestError as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > SILENT_S:
                    raise
                live.update(f"{name}: {error}")
                time.sleep(_EVERY_S)
                continue
            silent_since = None
            started = started or status.state in {"running", "restarting"}
            text = shown.describe(status, last_line(launcher, name) if status.state == "running" else "")
            live.update(text)
            if not console.is_terminal:
                shown.print_when_new(status, text)
            if status.state in ENDED:
                break
            if started or not status.hopeless:
                hopeless_since = None
            elif time.monotonic() - (hopeless_since := hopeless_since or time.monotonic()) > _HOPELESS_S:
                launcher.cancel(name)
                raise JobFailed(f"{name} cannot start: {status.reason}; it is removed")
            time.sleep(_EVERY_S)
    if status.state == "failed":
        for line in telling(last_lines(launcher, name)):
            print(line, file=sys.stderr)
        if status.exit_code == UsageError.exit_code and not status.replaced:
            launcher.cancel(name)
            raise JobFailed(f"{name} was started wrongly (see above); it is removed", UsageError.exit_code)
        raise JobFailed(f"{name} failed: {status.reason}")
    return status


def last_line(launcher: Launcher, name: str) -> str:
    """What the first process said last; empty where it said nothing, or cannot be asked."""
    said = []
    with suppress(EverestError):
        for line in launcher.logs(name, Wanted(rank=0), last=_LAST_LINES):
            said.append(line)
    return said[-1].removeprefix("[rank 0]").strip() if said else ""


def last_lines(launcher: Launcher, name: str) -> Sequence[str]:
    """Of all processes, and what of it is missing."""
    lines = []
    try:
        for line in launcher.logs(name, last=10 * _LAST_LINES):
            lines.append(line)
    except EverestError as error:
        lines.append(f"({error})")
    return lines


def telling(lines: Sequence[str]) -> Sequence[str]:
    """Of a failed job's lines those that were meant for a person, or the last."""
    return [line for line in lines if "] everest: " in line] or lines[-_LAST_LINES:]


class Display:
    def __init__(self, name: str) -> None:
        self.name = name
        self._said: tuple[str, str] | None = None
        self._said_at = 0.0

    def describe(self, status: JobStatus, last_line: str) -> str:
        where = f" on {', '.join(status.nodes)}" if status.nodes else ""
        more = "; ".join(filter(None, (status.reason, last_line)))
        return f"{self.name} {status.state}{where}, {age(status)}" + (f": {more}" if more else "")

    def print_when_new(self, status: JobStatus, text: str) -> None:
        """Elsewhere than on a terminal: a line when something changes, and now and then."""
        new = (status.state, status.reason) != self._said
        if new or time.monotonic() - self._said_at > _LINE_EVERY_S:
            print(text, file=sys.stderr, flush=True)
            self._said, self._said_at = (status.state, status.reason), time.monotonic()


def age(status: JobStatus) -> str:
    """How long ago a job was created."""
    return lasting((datetime.now(UTC) - status.created).total_seconds())


def lasting(seconds: float) -> str:
    """45s, 12m, 3h05m, 2d04h."""
    seconds = int(seconds)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m" if minutes else f"{max(0, seconds)}s"
