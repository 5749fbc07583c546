"""A study run by this process, from the first trial to the report."""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from optuna.trial import TrialState

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.progress import console
from orchestration.job import JobSpec
from orchestration.launchers import open_launcher
from orchestration.settings import PlatformSettings
from sweeps.budget import Budget
from sweeps.controller import Controller, Stopped
from sweeps.display import Display
from sweeps.interrupts import Interrupted, Interrupts
from sweeps.keeping import Keeping
from sweeps.news import Listeners, SweepNews
from sweeps.space import Space
from sweeps.study import Study

log = logging.getLogger(__name__)

#: Writes files, which also go to MLflow.
Report = Callable[[Study, PlatformSettings], list[Path]]


def control(
    study: Study,
    settings: PlatformSettings,
    budget: Budget,
    launcher_name: str,
    same_fault: int = 3,
    on_interrupt: str = "ask",
    report: Report | None = None,
    code: str = "",
    keep_best: int | None = None,
) -> None:
    """Until the study has ended, or is stopped or interrupted, which leaves by SystemExit. Raises EverestError.

    ``code``: digest of what was sent along for its jobs. ``keep_best``: trials whose checkpoints stay; None: all.
    """
    from orchestration.gc.facts import Shelf, place_of
    from orchestration.tracking.runs import Runs
    from sweeps.review import Review

    if budget.trials is None and budget.hours is None and budget.gpu_hours is None and study.space.sampler != "grid":
        raise UsageError("how much? --trials, --hours or --gpu-hours")
    launcher = open_launcher(launcher_name, settings)
    for experiment in one_of(study.space):
        launcher.check(JobSpec(experiment))
    review, runs = Review(study, settings), Runs(settings)
    news = SweepNews(study, settings, runs.page)
    keeping = Keeping(study, keep_best, lambda: Shelf(settings, launcher, place_of(launcher_name, settings)))
    listeners = Listeners(review, news, keeping)
    controller = Controller(study, launcher, runs, budget, listeners, same_fault, code=code)
    status, files = "FAILED", []
    try:
        keeping.look()
        with Interrupts() as interrupts, Display() as display:
            controller.run(display, interrupts)
        keeping.finish()
        status = "FINISHED"
        news.finished()
        files = (report or standard_report)(study, settings)
    except Stopped as stopped:
        _end_jobs(controller, stopped.jobs)
        status = "KILLED"
        print(f"{study.name} is stopped; everest-sweep resume {study.name} goes on", file=sys.stderr)
    except Interrupted as interrupted:
        _end_jobs(controller, _what_about_jobs(on_interrupt, interrupted, len(controller.jobs.open)))
        status = "KILLED"
        print(f"{study.name} is interrupted; everest-sweep resume {study.name} goes on", file=sys.stderr)
        sys.exit(128 + interrupted.signum)
    except EverestError as error:
        news.failed(str(error))
        _end_jobs(controller, "cancel")
        raise
    finally:
        keeping.close()
        review.finish(status, files)
        news.close()


def _end_jobs(controller: Controller, what: str) -> None:
    if what == "cancel":
        controller.cancel()
    else:
        controller.leave()


def _what_about_jobs(flag: str, interrupted: Interrupted, jobs: int) -> str:
    if flag != "ask":
        return flag
    if interrupted.signum != signal.SIGINT or not sys.stdin.isatty() or not jobs:
        return "leave"
    try:
        answer = console.input(f"{jobs} jobs are going on. Cancel them (c), with a checkpoint, or leave them (Enter)? ")
    except (EOFError, KeyboardInterrupt):
        return "leave"
    return "cancel" if answer.strip().lower().startswith("c") else "leave"


def one_of(space: Space) -> list[Experiment]:
    """A trial's experiments, such as the sweep may draw."""
    from optuna.storages import InMemoryStorage

    trial = Study.begin(space.name, space, InMemoryStorage()).draw()
    return space.experiments(trial.params)


def standard_report(study: Study, settings: PlatformSettings, out: Path | None = None) -> list[Path]:
    from sweeps.report import write_report

    if not study.trials(TrialState.COMPLETE):
        log.warning("%s has no complete trial: there is nothing to draw", study.name)
        return []
    return write_report(study, out or settings.work / "sweeps" / study.name)
