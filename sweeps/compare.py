"""``everest compare``: methods with several seeds at equal budgets, over the launchers, as a sweep."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import TrialState

from everest.arguments import overrides
from everest.data.index import read_index
from everest.errors import EverestError, UsageError
from everest.tables import print_table
from orchestration.code import taken_along
from orchestration.settings import PlatformSettings
from sweeps.budget import Budget
from sweeps.comparison import PACE, Comparison, Costs, Kind
from sweeps.control import control
from sweeps.space import VARIANT
from sweeps.storage import database, only_controller, open_storage
from sweeps.study import JOBS, Study


def compare(options: argparse.Namespace, rest: Sequence[str]) -> None:
    settings = PlatformSettings.load()
    comparison = _changed(Comparison.load(options.comparison), options, overrides(list(rest)))
    flops, videos = _flops(comparison), _videos(comparison)
    if options.plan:
        _print_plan(comparison, flops, videos)
        return
    folder = options.out or settings.work / "compare" / comparison.name
    with database(settings), only_controller(settings, comparison.name):
        storage = open_storage(settings)
        costs = _seconds(comparison, settings, storage, options) if comparison.equal == "seconds" else flops
        study = Study.begin(comparison.name, comparison.space(costs, videos), storage)
        control(
            study, settings, Budget(options.parallel), options.launcher, code=taken_along(options.launcher, settings),
            report=lambda study, settings: _report(comparison, study, settings, flops, folder),
        )  # fmt: skip
    print(folder / "report.html", file=sys.stderr)


def _changed(comparison: Comparison, options: argparse.Namespace, fixed: dict[str, Any]) -> Comparison:
    tree = comparison.model_dump(mode="json")
    tree |= {"name": options.study or comparison.name, "seeds": options.seeds or comparison.seeds}
    tree |= {"equal": options.equal or comparison.equal}
    for kind in comparison.stages():
        tree[kind]["fixed"] |= fixed
    return Comparison.parse(tree)


def _flops(comparison: Comparison) -> dict[tuple[Kind, str], float]:
    """Of a clip, forward and backward."""
    from everest.costs import costs

    found = {}
    for kind in comparison.stages():
        for method in comparison.methods:
            experiment = comparison.experiment(kind, method)
            found[kind, method] = costs(experiment, experiment.classify.num_classes or 1000).step_flops
    return found


def _seconds(
    comparison: Comparison, settings: PlatformSettings, storage: BaseStorage, options: argparse.Namespace
) -> dict[tuple[Kind, str], float]:
    """Of a clip, measured by runs of their own, one at a time: the median over seeds. Raises EverestError."""
    found = {}
    for kind in comparison.stages():
        study = Study.begin(f"{comparison.name}-pace-{kind}", comparison.pace_space(kind), storage)
        control(study, settings, Budget(1), options.launcher, code=taken_along(options.launcher, settings))
        paces: dict[str, list[float]] = {method: [] for method in comparison.methods}
        for trial in study.trials(TrialState.COMPLETE):
            paces[trial.params[VARIANT]].append(trial.values[0])
        for method, clips_per_s in paces.items():
            if not clips_per_s:
                raise EverestError(f"comparison {comparison.name}: no run of {method} in {study.name} told its {PACE}")
            found[kind, method] = 1 / median(clips_per_s)
    return found


def _videos(comparison: Comparison) -> int:
    """To train on; 1 where the length of every first stage is given in steps and none need be counted."""
    experiments = [comparison.experiment(kind, comparison.methods[0]) for kind in comparison.stages()]
    if all(experiment.optim.steps for experiment in experiments):
        return 1
    source = experiments[0].data.train
    if source is None:
        raise UsageError(f"comparison {comparison.name}: data.train is not given")
    return len(read_index(source, experiments[0].data.root).videos)


def _report(comparison: Comparison, study: Study, settings: PlatformSettings, flops: Costs, folder: Path) -> list[Path]:
    """Printed and written; nothing where no trial is complete."""
    from orchestration.tracking.runs import Runs
    from sweeps.comparison_report import table, write_comparison
    from sweeps.findings import curves_of, rows_of

    runs = Runs(settings)
    found = rows_of(comparison, study, runs)
    for measure, rows in found.items():
        print_table(table(comparison, study, measure, rows))
    if not any(found.values()):
        return []
    pictures = {method: png for method, job in _first_runs(study).items() if (png := runs.picture(job))}
    return write_comparison(comparison, study, found, curves_of(comparison, study, runs, flops), pictures, folder)


def _first_runs(study: Study) -> dict[str, str]:
    """By method, the first stage's run with the smallest seed that is complete."""
    trials = sorted(study.trials(TrialState.COMPLETE), key=lambda trial: trial.params["seed"], reverse=True)
    return {trial.params[VARIANT]: trial.user_attrs[JOBS][0] for trial in trials}


def _print_plan(comparison: Comparison, flops: Costs, videos: int) -> None:
    runs = len(comparison.methods) * comparison.seeds * len(comparison.stages())
    if comparison.equal == "seconds":
        print(f"{runs} short runs, one at a time, measure first how many clips a second each method takes.")
        print("Were operations what is equal:")
    lines = [["method", "stage", "steps", "GFLOPs a clip", "10^15 FLOPs a seed"]]
    total = 0.0
    for method in comparison.methods:
        for kind in comparison.stages():
            steps = comparison.steps(kind, method, flops, videos)
            clips = steps * comparison.experiment(kind, method).optim.batch_size
            work = clips * flops[kind, method]
            total += work * comparison.seeds
            lines.append([method, kind, str(steps), f"{flops[kind, method] / 1e9:.3f}", f"{work / 1e15:.4g}"])
    print_table(lines)
    print(f"{runs} runs, {comparison.seeds} seeds of each method, {total / 1e15:.4g} x 10^15 FLOPs in all")
