"""The ``everest-jobs`` command: experiments as jobs of a cluster, or of this machine.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C (jobs go on).
"""

import argparse
import logging
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from everest.arguments import overrides
from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.progress import start_logging
from orchestration.job import JobSpec, JobStatus, Launcher
from orchestration.provenance import commit
from orchestration.settings import PlatformSettings
from orchestration.watch import age, last_line, wait

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    try:
        options, rest = _parser().parse_known_args(arguments)
        start_logging()
        given = {name: value for name, value in vars(options).items() if value is not None}
        settings = PlatformSettings.load(
            **{name: given[name] for name in PlatformSettings.model_fields if name in given}
        )
        if rest and options.run is not _submit:
            raise UsageError(f"unknown argument {rest[0]!r}")
        options.run(options, settings, rest)
    except EverestError as error:
        print(f"everest-jobs: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    platform = argparse.ArgumentParser(add_help=False)
    where = platform.add_argument_group("where (also EVEREST_… in the environment or .env)")
    where.add_argument("--launcher", choices=sorted(_LAUNCHERS), default="kubernetes")
    for name, field in PlatformSettings.model_fields.items():
        where.add_argument(f"--{name.replace('_', '-')}", dest=name, help=field.description, metavar="VALUE")

    parser = argparse.ArgumentParser(prog="everest-jobs", description="Runs experiments as jobs and registers models.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., None], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False, parents=[platform])
        added.set_defaults(run=run)
        return added

    added = command("submit", _submit, "start a recipe, or continue the run of its name from its newest checkpoint")
    added.add_argument(
        "recipe", metavar="RECIPE", help="a shipped recipe or a YAML file; --dotted.name value changes it"
    )
    added.add_argument("--dry-run", action="store_true", help="print what would be started, and change nothing")
    added.add_argument("--wait", action="store_true", help="show how it goes until it ends")
    added = command("status", _status, "how a job is, and why it does not start")
    added.add_argument("job")
    added = command("logs", _logs, "what a job's processes say")
    added.add_argument("job")
    added.add_argument("-f", "--follow", action="store_true", help="until the job ends")
    added.add_argument("--rank", type=int, help="of one process alone")
    added = command("cancel", _cancel, "end a job; it saves a checkpoint first")
    added.add_argument("job")
    command("list", _list, "all jobs")
    added = command("register", _register, "make a model version of a run's newest checkpoint in S3")
    added.add_argument("job", metavar="RUN")
    added.add_argument("--model", metavar="NAME", help="registered model (the run's name)")
    added.add_argument("--alias", help="that the version gets (EVEREST_MODEL_ALIAS, candidate)")
    added.add_argument(
        "--promote-if", metavar="METRIC", help="only where this is better than the alias's version: top1"
    )
    added.add_argument("--best", action="store_true", help="the best checkpoint instead of the newest")
    return parser


def _submit(options: argparse.Namespace, settings: PlatformSettings, rest: list[str]) -> None:
    experiment = Experiment.load(options.recipe).override(overrides(rest))
    spec = JobSpec(experiment, commit(), uuid.uuid4().hex[:12])
    launcher = _launcher(options, settings)
    if options.dry_run:
        print(launcher.dry_run(spec), end="")
        return
    launcher.submit(spec)
    print(f"{spec.name} is submitted; everest-jobs logs -f {spec.name} shows what it says", file=sys.stderr)
    if options.wait:
        try:
            status = wait(launcher, spec.name)
        except KeyboardInterrupt:
            print(f"{spec.name} goes on; everest-jobs cancel {spec.name} ends it", file=sys.stderr)
            raise
        print(f"{spec.name} succeeded after {age(status)}", file=sys.stderr)


def _status(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    launcher = _launcher(options, settings)
    status = launcher.status(options.job)
    rows = {
        "state": status.state,
        "why": status.reason,
        "age": age(status),
        "nodes": ", ".join(status.nodes),
        "image": status.image,
        "says": last_line(launcher, options.job),
    }
    for name, value in rows.items():
        if value:
            print(f"{name:8} {value}")


def _logs(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    for line in _launcher(options, settings).logs(options.job, options.rank, options.follow):
        print(line, flush=options.follow)


def _cancel(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    _launcher(options, settings).cancel(options.job)
    print(f"{options.job} is cancelled; it has {settings.grace_s} s for its last checkpoint", file=sys.stderr)


def _list(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    jobs = _launcher(options, settings).list()
    progress = _progress(settings, jobs)
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("JOB", "STATE", "AGE", "STEP", "LOSS", "NODE"):
        table.add_column(title, no_wrap=True, justify="right" if title in {"STEP", "LOSS"} else "left")
    for job in jobs:
        step, loss = progress.get(job.name, (None, None))
        numbers = ("-" if step is None else str(step), "-" if loss is None else f"{loss:.4g}")
        table.add_row(job.name, job.state, age(job), *numbers, ",".join(job.nodes) or "-")
    Console().print(table)


def _progress(settings: PlatformSettings, jobs: Sequence[JobStatus]) -> dict[str, tuple[int, float]]:
    from mlflow.exceptions import MlflowException

    from orchestration.tracking import progress_of

    try:
        return progress_of(settings, [job.name for job in jobs])
    except MlflowException as error:
        log.warning("no steps and losses: MLflow at %s: %s", settings.tracking_uri, str(error).splitlines()[0][:200])
        return {}


def _register(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    from orchestration.registry import register

    alias = options.alias or settings.model_alias
    made = register(settings, options.job, options.model, alias, options.promote_if, options.best)
    print(made.said, file=sys.stderr)
    print(made.address)


def _kubernetes(settings: PlatformSettings) -> Launcher:
    from orchestration.kubernetes import KubernetesLauncher

    return KubernetesLauncher(settings)


def _local(settings: PlatformSettings) -> Launcher:
    from orchestration.local import LocalLauncher

    return LocalLauncher(settings)


_LAUNCHERS: dict[str, Callable[[PlatformSettings], Launcher]] = {"kubernetes": _kubernetes, "local": _local}


def _launcher(options: Any, settings: PlatformSettings) -> Launcher:
    return _LAUNCHERS[options.launcher](settings)
