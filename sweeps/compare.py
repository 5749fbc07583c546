"""``everest compare``: methods with several seeds at equal budgets, over the launchers, as a sweep."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from everest.arguments import overrides
from everest.data.index import read_index
from everest.errors import UsageError
from everest.tables import print_table
from orchestration.settings import PlatformSettings
from sweeps.budget import Budget
from sweeps.comparison import Comparison, Kind
from sweeps.control import control
from sweeps.storage import database, only_controller, open_storage
from sweeps.study import Study


def compare(options: argparse.Namespace, rest: Sequence[str]) -> None:
    from sweeps.comparison_report import rows_of, table, write_comparison

    settings = PlatformSettings.load()
    comparison = _changed(Comparison.load(options.comparison), options, overrides(list(rest)))
    flops, videos = _step_flops(comparison), _videos(comparison)
    if options.plan:
        _print_plan(comparison, flops, videos)
        return
    space, folder = comparison.space(flops, videos), options.out or settings.work / "compare" / comparison.name
    with database(settings), only_controller(settings, space.name):
        study = Study.begin(space.name, space, open_storage(settings))
        control(
            study, settings, Budget(options.parallel), options.launcher,
            report=lambda study, _: write_comparison(comparison, study, folder),
        )  # fmt: skip
    print_table(table(comparison, rows_of(comparison, study)))
    print(folder / "report.html", file=sys.stderr)


def _changed(comparison: Comparison, options: argparse.Namespace, fixed: dict[str, Any]) -> Comparison:
    tree = comparison.model_dump(mode="json")
    tree |= {"name": options.study or comparison.name, "seeds": options.seeds or comparison.seeds}
    for kind in comparison.stages():
        tree[kind]["fixed"] |= fixed
    return Comparison.parse(tree)


def _step_flops(comparison: Comparison) -> dict[tuple[Kind, str], float]:
    from everest.costs import costs

    found = {}
    for kind in comparison.stages():
        for method in comparison.methods:
            experiment = comparison.experiment(kind, method)
            found[kind, method] = costs(experiment, experiment.classify.num_classes or 1000).step_flops
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


def _print_plan(comparison: Comparison, flops: dict[tuple[Kind, str], float], videos: int) -> None:
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
    runs = len(comparison.methods) * comparison.seeds * len(comparison.stages())
    print(f"{runs} runs, {comparison.seeds} seeds of each method, {total / 1e15:.4g} x 10^15 FLOPs in all")
