"""The ``everest-jobs`` command: experiments as jobs of a cluster, or of this machine.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C (jobs go on).
"""

import argparse
import re
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, NoReturn

from everest.arguments import overrides
from everest.config import Experiment
from everest.errors import UsageError
from everest.patterns import matching
from orchestration.code import fetch, send, working_tree
from orchestration.costs import add_arguments as costs_arguments
from orchestration.costs import costs
from orchestration.flags import Commands
from orchestration.gc.command import add_arguments as gc_arguments
from orchestration.gc.command import gc
from orchestration.job import JobSpec
from orchestration.launchers import open_launcher
from orchestration.listing import add_arguments as list_arguments
from orchestration.listing import list_jobs
from orchestration.log import Wanted, since
from orchestration.profiling import add_arguments as profile_arguments
from orchestration.profiling import profile
from orchestration.provenance import commit
from orchestration.settings import PlatformSettings, check_argument
from orchestration.watch import age, last_line, wait

_JobName = Annotated[str, matching(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", "must be small letters, digits and '-'")]
_PACKING = {
    "root": "what relative paths of the list start from",
    "short-side": "pixels of the shorter side",
    "quality": "of the JPEGs",
    "every": "keep one frame in so many",
    "shard-videos": "videos of a tar file",
    "workers": "videos at a time in each pod",
    "max-bad": "share of unreadable videos that ends it",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    _commands().main(arguments)


def _commands() -> Commands:
    commands = Commands("everest-jobs", "Runs experiments as jobs and registers models.", launcher="kubernetes")
    added = commands.add(
        "submit",
        _submit,
        "start a recipe, or continue the run of its name from its newest checkpoint",
        words_follow=True,
    )
    added.add_argument(
        "recipe", metavar="RECIPE", help="a shipped recipe or a YAML file; --dotted.name value changes it"
    )
    added.add_argument("--dry-run", action="store_true", help="print what would be started, and change nothing")
    added.add_argument("--wait", action="store_true", help="show how it goes until it ends")
    added.add_argument("--no-code", action="store_true", help="run the image's code, not the working tree's")
    added = commands.add("code", _code, "the code that a run was submitted with")
    added.add_argument("job", metavar="RUN")
    added.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="that is made of it")
    added = commands.add("pack", _pack, "everest data pack, shared among pods; typed again it goes on where it was")
    added.add_argument("source", metavar="LIST|FOLDER", help="as pods find it: on the volume EVEREST_DATA, or s3://…")
    added.add_argument("out", metavar="FOLDER|s3://BUCKET/PREFIX")
    added.add_argument("--name", help="of the Job (pack-, and the last name of the set)")
    added.add_argument("--parts", type=int, default=8, metavar="N", help="pods that share the work (8)")
    for name, what in _PACKING.items():
        added.add_argument(f"--{name}", metavar="VALUE", help=f"{what}, as of everest data pack")
    added.add_argument("--dry-run", action="store_true", help="print what would be started, and change nothing")
    added.add_argument("--wait", action="store_true", help="show how it goes until it ends")
    added = commands.add("status", _status, "how a job is, and why it does not start")
    added.add_argument("job")
    added = commands.add("logs", _logs, "what a job's processes say")
    added.add_argument("job")
    added.add_argument("-f", "--follow", action="store_true", help="until the job ends")
    added.add_argument("--rank", type=int, metavar="N", help="of one process alone")
    added.add_argument("--restart", type=int, metavar="N", help="of one start alone; the first is 1")
    added.add_argument("--since", metavar="TIME", help="what was said since: 90s, 10m, 2h, 3d or 2026-11-27T14:30")
    added.add_argument("--grep", metavar="REGEX", help="lines in which it is found")
    added = commands.add("cancel", _cancel, "end a job; it saves a checkpoint first")
    added.add_argument("job")
    added = commands.add(
        "shell", _shell, "a shell where a process of a job runs, or after -- one command", words_follow=True
    )
    added.add_argument("job")
    added.add_argument("--rank", type=int, default=0, metavar="N", help="of the process (0)")
    added = commands.add("profile", profile, "a trace of a running job's next steps, which a browser opens")
    profile_arguments(added)
    commands.add("tend", _tend, "look after jobs unasked: let pods of lost nodes go, keep jobs from unfit nodes")
    added = commands.add("list", list_jobs, "all jobs: how far they are, how long they take, what they cost")
    list_arguments(added)
    added = commands.add("costs", costs, "GPU hours, and money, that runs have taken")
    costs_arguments(added)
    added = commands.add("gc", gc, "what of old runs would go by rules, and with --delete goes")
    gc_arguments(added)
    added = commands.add("register", _register, "make a model version of a run's newest checkpoint in S3")
    added.add_argument("job", metavar="RUN")
    added.add_argument("--model", metavar="NAME", help="registered model (the run's name)")
    added.add_argument("--alias", help="that the version gets (of a finished run: EVEREST_MODEL_ALIAS)")
    added.add_argument(
        "--promote-if", metavar="METRIC", help="only where this is better than the alias's version: top1"
    )
    added.add_argument("--best", action="store_true", help="the best checkpoint instead of the newest")
    return commands


def _submit(options: argparse.Namespace, settings: PlatformSettings, rest: list[str]) -> None:
    experiment = Experiment.load(options.recipe).override(overrides(rest))
    code = working_tree() if not options.no_code and options.launcher != "local" else None
    spec = JobSpec(experiment, commit(), uuid.uuid4().hex[:12], code=code.digest if code else "", submitted=time.time())
    launcher = open_launcher(options.launcher, settings)
    if options.dry_run:
        print(launcher.dry_run(spec), end="")
        return
    if code:
        launcher.check(spec)
        send(code, settings)
    launcher.submit(spec)
    print(f"{spec.name} is submitted; everest-jobs logs -f {spec.name} shows what it says", file=sys.stderr)
    if options.wait:
        try:
            status = wait(launcher, spec.name)
        except KeyboardInterrupt:
            print(f"{spec.name} goes on; everest-jobs cancel {spec.name} ends it", file=sys.stderr)
            raise
        print(f"{spec.name} succeeded after {age(status)}", file=sys.stderr)


def _code(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    from orchestration.tracking.runs import Runs

    if options.out.exists():
        raise UsageError(f"--out {options.out} is there already; choose another")
    digest = Runs(settings).tag(options.job, "everest.code")
    if not digest:
        raise UsageError(f"{options.job}: no run of that name was submitted with code of its own")
    fetch(digest, options.out, settings)
    print(options.out)


def _pack(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    from orchestration.cluster.launcher import KubernetesLauncher
    from orchestration.cluster.packing import packing_job, watch
    from orchestration.cluster.pods import to_yaml

    if options.parts < 1:
        raise UsageError(f"--parts {options.parts}: must be at least 1")
    name = options.name or f"pack-{re.sub('[^a-z0-9]+', '-', PurePosixPath(options.out).name.lower()).strip('-')}"
    check_argument("--name", name, _JobName)
    given = {name: getattr(options, name.replace("-", "_")) for name in _PACKING}
    chosen = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    job = packing_job(name, options.parts, [options.source, options.out, *chosen], settings)
    if options.dry_run:
        print(to_yaml(job), end="")
        return
    launcher = KubernetesLauncher(settings)
    launcher.batch.run(job)
    print(
        f"{name} is submitted; kubectl -n {settings.namespace} logs -f job/{name} shows what it says", file=sys.stderr
    )
    if options.wait:
        watch(launcher, name)
        print(f"{options.out} is packed", file=sys.stderr)


def _status(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    launcher = open_launcher(options.launcher, settings)
    status = launcher.status(options.job)
    rows = {
        "state": status.state,
        "why": status.reason,
        "age": age(status),
        "nodes": ", ".join(status.nodes),
        "avoids": ", ".join(status.avoids),
        "image": status.image,
        "says": last_line(launcher, options.job),
    }
    for name, value in rows.items():
        if value:
            print(f"{name:8} {value}")


def _logs(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    try:
        shown = re.compile(options.grep or "")
    except re.error as error:
        raise UsageError(f"--grep {options.grep!r} is no regular expression: {error}") from None
    wanted = Wanted(options.rank, options.restart, since(options.since) if options.since else "")
    for line in open_launcher(options.launcher, settings).logs(options.job, wanted, options.follow):
        if shown.search(line):
            print(line, flush=options.follow)


def _cancel(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    open_launcher(options.launcher, settings).cancel(options.job)
    print(f"{options.job} is cancelled; it has {settings.grace_s} s for its last checkpoint", file=sys.stderr)


def _shell(options: argparse.Namespace, settings: PlatformSettings, rest: list[str]) -> None:
    from orchestration.cluster.launcher import KubernetesLauncher
    from orchestration.cluster.shell import become_shell

    if options.launcher == "local":
        raise UsageError("--launcher local: its processes run on this machine, where you have a shell")
    command = rest[1:] if rest[:1] == ["--"] else rest
    become_shell(settings, KubernetesLauncher(settings).pod_of(options.job, options.rank), command)


def _tend(_: argparse.Namespace, settings: PlatformSettings, __: list[str]) -> None:
    from orchestration.cluster.launcher import KubernetesLauncher

    print(f"looks after the jobs of {settings.namespace}; Ctrl-C ends that, and no job", file=sys.stderr)
    KubernetesLauncher(settings).tend()


def _register(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    from orchestration.tracking.registry import register

    made = register(settings, options.job, options.model, options.alias, options.promote_if, options.best)
    print(made.said, file=sys.stderr)
    print(made.address)
