"""``everest-jobs list``: all jobs, how far they are and what they take, and runs that have outlived their jobs."""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from everest.errors import EverestError, UsageError
from orchestration.costs import shown, spent_by
from orchestration.hours import Spent
from orchestration.job import JobStatus
from orchestration.launchers import open_launcher
from orchestration.log import since
from orchestration.settings import PlatformSettings
from orchestration.watch import lasting

if TYPE_CHECKING:
    from orchestration.tracking.runs import Seen

log = logging.getLogger(__name__)

_COLUMNS = ("JOB", "STATE", "USER", "AGE", "STEP", "DONE", "LEFT", "WAIT", "LOSS", "GPU HOURS", "COST", "NODE")
_WORDS = {"JOB", "STATE", "USER", "NODE"}
_ENDED = {"FINISHED": "succeeded", "FAILED": "failed", "KILLED": "interrupted"}  # as MLflow has it
_EVER = datetime.fromtimestamp(0, UTC)
_NO_TERMINAL = 500  # columns: what reads a pipe wants whole names


@dataclass(frozen=True)
class Row:
    """A job, or a run without one. None: not known."""

    job: str
    state: str
    user: str
    created: datetime
    nodes: tuple[str, ...]
    gone: bool = False  # there is a run of it alone
    step: int | None = None
    steps: int | None = None  # of all
    left_s: float | None = None
    data_wait: float | None = None  # share of the time
    loss: float | None = None
    gpu_hours: float | None = None
    cost: float | None = None
    idle: str = ""  # what is said of its GPUs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "all jobs, everybody's; --user NAME: those that NAME has submitted"
    parser.add_argument("--all", action="store_true", help="runs in MLflow whose jobs are gone, too")
    parser.add_argument("--since", metavar="TIME", help="with --all: those that went on since: 7d, 12h or 2026-11-27")
    parser.add_argument("--json", action="store_true", help="for programs")


def list_jobs(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    if options.since and not options.all:
        raise UsageError(f"--since {options.since}: is for --all; all jobs that there are are shown")
    jobs = open_launcher(options.launcher, settings).list()
    namespace = "" if options.launcher == "local" else settings.namespace
    past = datetime.fromisoformat(since(options.since)) if options.since else _EVER if options.all else None
    found = rows(jobs, _runs(settings, namespace, jobs, past), past)
    found = [row for row in found if options.user in {None, row.user}]
    found = list(_spent(found, spent_by(settings, {row.job for row in found})))
    if options.json:
        print(json.dumps([asdict(row) for row in found], default=datetime.isoformat, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else _NO_TERMINAL).print(table(found, datetime.now(UTC)))


def _runs(settings: PlatformSettings, namespace: str, jobs: Sequence[JobStatus], past: datetime | None) -> list["Seen"]:
    """In two questions, however many jobs there are. Without MLflow there is no history, but there are jobs."""
    begun = min([job.created for job in jobs] + ([past] if past else []), default=None)
    if not begun:
        return []
    from orchestration.tracking.runs import Runs

    try:
        return Runs(settings).seen(namespace, begun)
    except EverestError as error:
        if past:
            raise
        log.warning("no steps and losses: %s", error)
        return []


def rows(jobs: Iterable[JobStatus], runs: Iterable["Seen"], past: datetime | None) -> list[Row]:
    """The newest first, with runs without a job that have gone on since ``past``, where that is given.

    A job's run is the newest of its name that goes on, or did when the job was there.
    """
    free = sorted(runs, key=lambda run: run.began, reverse=True)
    found = []
    for job in jobs:
        row = Row(job.name, job.state, job.user, job.created, job.nodes)
        own = next((run for run in free if run.name == job.name and (not run.ended or run.ended >= job.created)), None)
        if own:
            free.remove(own)
            row = progressed(row, own)
        found.append(row)
    for run in free:
        if not past or (run.ended and run.ended < past):
            continue
        state = _ENDED.get(run.status, "unknown")
        nodes = (run.node,) if run.node else ()
        found.append(progressed(Row(run.name, state, run.user, run.began, nodes, gone=True), run))
    return sorted(found, key=lambda row: row.created, reverse=True)


def progressed(row: Row, run: "Seen") -> Row:
    """With what its run has reported. The time left is by its newest speed, without what is not training."""
    row, loss, epoch = replace(row, idle=run.idle), run.latest.get("train/loss"), run.latest.get("train/epoch")
    if not loss:
        return row
    steps = _number(run.parameters.get("optim.steps"))
    if not steps and epoch and epoch.value:
        epochs = _number(run.parameters.get("optim.epochs")) or 0
        steps = round(epoch.step / epoch.value) * epochs
    wait, speed = run.latest.get("perf/data_wait"), run.latest.get("perf/clips_per_s")
    batch = _number(run.parameters.get("optim.batch_size"))
    left_s = None
    if row.state == "running" and steps and batch and speed and speed.value:
        left_s = (steps - loss.step) * batch / speed.value
    return replace(
        row, step=loss.step, steps=steps or None, left_s=left_s, data_wait=wait and wait.value, loss=loss.value
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _spent(found: Iterable[Row], spent: Mapping[str, Spent]) -> Iterator[Row]:
    """What was taken under a name is shown with the newest of that name."""
    told: set[str] = set()
    for row in found:
        taken = spent.get(row.job) if row.job not in told else None
        told.add(row.job)
        yield replace(row, gpu_hours=taken.gpu_hours, cost=taken.money) if taken else row


def table(found: Iterable[Row], now: datetime) -> Table:
    """The nodes are what is cut where a terminal is narrow."""
    made = Table(box=None, pad_edge=False, header_style="")
    for title in _COLUMNS:
        justify = "left" if title in _WORDS else "right"
        made.add_column(title, no_wrap=title != "NODE", overflow="ellipsis", justify=justify)  # type: ignore[arg-type]
    for row in found:
        made.add_row(*_cells(row, now))
    return made


def _cells(row: Row, now: datetime) -> Sequence[str]:
    step = "-" if row.step is None else f"{row.step}/{row.steps}" if row.steps else str(row.step)
    done = "-" if row.step is None or not row.steps else f"{100 * row.step // row.steps}%"
    return (
        row.job,
        f"({row.state})" if row.gone else f"{row.state}, idle" if row.idle else row.state,
        row.user or "-",
        lasting((now - row.created).total_seconds()),
        step,
        done,
        "-" if row.left_s is None else lasting(row.left_s),
        "-" if row.data_wait is None else f"{row.data_wait:.0%}",
        "-" if row.loss is None else f"{row.loss:.4g}",
        shown(row.gpu_hours),
        shown(row.cost),
        ",".join(row.nodes) or "-",
    )
