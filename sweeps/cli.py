"""The ``everest-sweep`` command: searches settings with Optuna, each trial a job.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted (Ctrl-C, SIGTERM).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from optuna.trial import TrialState

from everest.arguments import overrides
from everest.errors import UsageError
from orchestration.code import taken_along, working_tree
from orchestration.flags import Commands
from orchestration.settings import PlatformSettings
from sweeps.best import choose, write_recipes
from sweeps.budget import Budget
from sweeps.control import control, one_of, standard_report
from sweeps.display import best_of, by_state
from sweeps.keeping import KEEP_BEST
from sweeps.space import Space
from sweeps.storage import database, only_controller, open_storage
from sweeps.study import JOBS, REASON, Study


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    _commands().main(arguments)


def _commands() -> Commands:
    commands = Commands("everest-sweep", "Searches settings of experiments with Optuna.", launcher="local")
    added = commands.add("launch", _launch, "begin a sweep, or go on with the one of its name", words_follow=True)
    added.add_argument(
        "space", metavar="SPACE", help="a shipped space or a YAML file; --dotted.name value fixes a setting"
    )
    added.add_argument("--study", metavar="NAME", help="of the sweep (the space's name)")
    for stage in ("pretrain", "finetune"):
        added.add_argument(f"--{stage}", metavar="RECIPE", help=f"instead of the space's recipe for {stage}")
    added.add_argument("--sampler", help="instead of the space's: tpe, nsga2, nsga3, gp, random, grid, qmc")
    added.add_argument("--pruner", help="instead of the space's: median, hyperband, patient, none")
    added.add_argument("--seed", type=int, help="instead of the space's")
    _code(added)
    _budget(added)
    _keep_best(added)
    added.add_argument("--in-cluster", action="store_true", help="run the controller itself as a Job of the cluster")
    added.add_argument("--dry-run", action="store_true", help="print one trial's experiments, or the Job, and stop")
    added = commands.add("resume", _resume, "go on with a sweep as it was begun")
    added.add_argument("study")
    _code(added)
    _budget(added)
    _keep_best(added)
    added = commands.add("status", _status, "all sweeps, or one with what its trials are doing")
    added.add_argument("study", nargs="?")
    added = commands.add("stop", _stop, "ask the controller of a sweep to stop, wherever it runs")
    added.add_argument("study")
    added.add_argument("--cancel", action="store_true", help="its jobs too, with a checkpoint each")
    added = commands.add("report", _report, "draw what was found; the figures also go to MLflow")
    added.add_argument("study")
    added.add_argument("--out", type=Path, metavar="FOLDER", help="default: sweeps/STUDY in the work folder")
    added = commands.add("best", _best, "write the best trial's recipe, at full length")
    added.add_argument("study")
    added.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as recipes/mine.yaml")
    added.add_argument("--trial", type=int, metavar="N", help="this one instead")
    return commands


def _keep_best(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-best", type=_count, metavar="N|all",
        help=f"trials whose checkpoints stay, others' go when they cannot be among these ({KEEP_BEST}; as begun)",
    )  # fmt: skip


def _count(text: str) -> int:
    """0: all. Raises UsageError."""
    if text != "all" and not (text.isdecimal() and int(text)):
        raise UsageError(f"--keep-best {text}: must be 1 or more, or all")
    return 0 if text == "all" else int(text)


def _code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-code", action="store_true", help="jobs of a cluster run the image's code, not this tree's"
    )
    parser.add_argument("--code", metavar="DIGEST", help="they run the code that was sent along under this digest")


def _budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, help="in all, over all controllers")
    parser.add_argument("--parallel", type=int, default=1, help="trials at a time (1)")
    parser.add_argument("--hours", type=float, help="of controllers' work; trials under way then end")
    parser.add_argument("--gpu-hours", type=float, help="of jobs; trials under way then end")
    parser.add_argument("--trial-hours", type=float, help="that one trial's jobs may run; it fails then")
    parser.add_argument(
        "--start-hours", type=float, default=24, help="that a job may wait to start, its queue too (24)"
    )
    parser.add_argument("--same-fault", type=int, default=3, metavar="N", help="like failures that end the sweep (3)")
    parser.add_argument(
        "--on-interrupt", choices=("ask", "leave", "cancel"), default="ask", help="what Ctrl-C does to jobs"
    )


def _launch(options: argparse.Namespace, settings: PlatformSettings, rest: list[str]) -> None:
    more = {name: getattr(options, name) for name in ("sampler", "pruner", "seed")}
    recipes = {"pretrain": options.pretrain, "finetune": options.finetune}
    space = Space.load(options.space).changed(recipes, overrides(rest), name=options.study, **more)
    if options.in_cluster:
        from sweeps.incluster import launch_in_cluster

        tree = None if options.no_code or options.code else working_tree()
        code = "" if options.no_code else options.code or (tree.digest if tree else "")
        launch_in_cluster(space, settings, _budget_flags(options), code, tree, options.dry_run)
        return
    if options.dry_run:
        for experiment in one_of(space):
            print(f"---\n{experiment.to_yaml()}", end="")
        return
    with database(settings), only_controller(settings, space.name):
        _control(Study.begin(space.name, space, open_storage(settings), KEEP_BEST), options, settings)


def _resume(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    with database(settings), only_controller(settings, options.study):
        _control(Study.open(options.study, open_storage(settings)), options, settings)


def _control(study: Study, options: argparse.Namespace, settings: PlatformSettings) -> None:
    budget = Budget(
        options.parallel, options.trials, options.hours, options.gpu_hours, options.trial_hours, options.start_hours
    )
    code = "" if options.no_code else options.code or taken_along(options.launcher, settings)
    if options.keep_best is not None:
        study.note_keep_best(options.keep_best or None)
    control(
        study, settings, budget, options.launcher, options.same_fault, options.on_interrupt, code=code,
        keep_best=study.keep_best,
    )  # fmt: skip
    print(best_of(study))
    print(f"everest-sweep best {study.name} --out recipes/{study.name}.yaml writes its recipe", file=sys.stderr)


def _status(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    import optuna

    storage = open_storage(settings)
    names = [options.study] if options.study else sorted(optuna.get_all_study_names(storage))
    if not names:
        print("no sweeps yet; everest-sweep launch smoke --trials 4 begins one", file=sys.stderr)
    for name in names:
        study = Study.open(name, storage)
        ended = {state: len(study.trials(state)) for state in TrialState}
        print(f"{name}: {by_state(ended)}, {ended[TrialState.RUNNING]} running, {ended[TrialState.WAITING]} waiting")
        if best := best_of(study):
            print(f"  {best}")
        if options.study:
            for trial in study.trials(TrialState.RUNNING):
                said = trial.intermediate_values
                step = max(said, default=None)
                seen = f", {study.space.prune} {said[step]:.4g} at step {step}" if step is not None else ""
                print(f"  trial {trial.number} runs as {trial.user_attrs.get(JOBS, ['?'])[-1]}{seen}")
            for trial in study.trials(TrialState.FAIL)[-5:]:
                print(f"  trial {trial.number} failed: {trial.user_attrs.get(REASON, 'nobody knows why')}")


def _stop(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    study = Study.open(options.study, open_storage(settings))
    study.ask_to_stop("cancel" if options.cancel else "leave")
    what = "cancels its jobs" if options.cancel else "leaves its jobs going"
    print(f"the controller of {study.name} stops within 15 s, and {what}", file=sys.stderr)


def _report(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    from sweeps.review import Review

    study = Study.open(options.study, open_storage(settings))
    files = standard_report(study, settings, options.out)
    Review(study, settings).finish("FINISHED", files)
    print(files[0])


def _best(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    study = Study.open(options.study, open_storage(settings))
    for file in write_recipes(study, choose(study, options.trial), options.out):
        print(f"make submit RECIPE={file}")


def _budget_flags(options: argparse.Namespace) -> list[str]:
    """As they were given, for a controller elsewhere."""
    names = ("trials", "parallel", "hours", "gpu_hours", "trial_hours", "start_hours", "same_fault")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.keep_best is not None:
        given["keep_best"] = options.keep_best or "all"
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
