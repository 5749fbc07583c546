"""What a comparison found: of every method and measure the values by seed, and how they grew with operations."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sweeps.comparison import Comparison, Costs
from sweeps.intervals import Interval, mean_interval, paired_interval
from sweeps.space import VARIANT
from sweeps.study import JOBS, Study


class Numbers(Protocol):
    """What is asked of runs, by their names."""

    def latest(self, name: str) -> Mapping[str, tuple[int, float]] | None: ...

    def history(self, name: str, metric: str) -> Sequence[tuple[int, float]]: ...


class Row(NamedTuple):
    method: str
    found: Interval
    difference: Interval | None  # to the first method, of the seeds that both have; None: it is the first, or has none
    values: Mapping[int, float]


class Curve(NamedTuple):
    """Means over seeds."""

    flops: Sequence[float]  # of training, of all stages up to there
    values: Sequence[float]


def rows_of(comparison: Comparison, study: Study, numbers: Numbers) -> dict[str, list[Row]]:
    """Of each measure the methods that have a value, in their order. Raises EverestError where MLflow is away."""
    trials = study.trials(TrialState.COMPLETE)
    first, *others = comparison.measures
    found = {first: _rows(comparison, [(trial, trial.values[0]) for trial in trials])}
    newest = [(trial, _newest(trial, numbers)) for trial in trials if others]
    for measure in others:
        measured = [(trial, metrics[measure]) for trial, metrics in newest if measure in metrics]
        found[measure] = _rows(comparison, measured)
    return found


def curves_of(comparison: Comparison, study: Study, numbers: Numbers, flops: Costs) -> dict[str, Curve]:
    """Of ``comparison.curve`` by method, over the seeds that noted it at the same steps. ``flops``: of a clip."""
    points: dict[str, dict[float, list[float]]] = {method: {} for method in comparison.methods}
    for trial in study.trials(TrialState.COMPLETE) if comparison.curve else ():
        method, spent = trial.params[VARIANT], 0.0
        for job, kind, stage in zip(
            trial.user_attrs[JOBS], comparison.stages(), study.space.experiments(trial.params), strict=True
        ):
            step_flops = flops[kind, method] * stage.optim.batch_size
            for step, value in numbers.history(job, comparison.curve or ""):
                points[method].setdefault(spent + step * step_flops, []).append(value)
            spent += (stage.optim.steps or 0) * step_flops
    return {
        method: Curve(sorted(found), [float(np.mean(found[at])) for at in sorted(found)])
        for method, found in points.items()
        if found
    }


def _newest(trial: FrozenTrial, numbers: Numbers) -> dict[str, float]:
    """Of all its stages, the last one's first."""
    found: dict[str, float] = {}
    for job in trial.user_attrs[JOBS]:
        found |= {metric: value for metric, (_, value) in (numbers.latest(job) or {}).items()}
    return found


def _rows(comparison: Comparison, measured: Sequence[tuple[FrozenTrial, float]]) -> list[Row]:
    values: dict[str, dict[int, float]] = {method: {} for method in comparison.methods}
    for trial, value in measured:
        values[trial.params[VARIANT]][trial.params["seed"]] = value
    first = values[comparison.methods[0]]
    rows = []
    for method, found in values.items():
        if not found:
            continue
        both = sorted(found.keys() & first.keys()) if method != comparison.methods[0] else []
        difference = paired_interval([found[seed] for seed in both], [first[seed] for seed in both]) if both else None
        rows.append(Row(method, mean_interval(list(found.values())), difference, found))
    return rows
