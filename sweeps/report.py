"""What a sweep found, as figures: one page to click in, and a PNG of each."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from everest.errors import UsageError
from everest.files import whole_file, write_text
from sweeps.study import Study

_RATIOS = ("mask.keep_ratio", "mask.visible_ratio")
_DPI = 110


def write_report(study: Study, folder: Path) -> list[Path]:
    """``report.html`` and PNGs of history, importance, slices, contour and, of two objectives, the Pareto front.

    Returns what was written. Raises UsageError where no trial is complete.
    """
    complete = study.trials(TrialState.COMPLETE)
    if not complete:
        raise UsageError(f"sweep {study.name} has no complete trial yet: nothing to draw")
    written: list[Path] = []
    pages: list[str] = []
    for name, plot, arguments in _plots(study, complete):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that plotting is experimental
            figure = getattr(optuna.visualization, plot)(study.optuna_study, **arguments)
            drawn = getattr(optuna.visualization.matplotlib, plot)(study.optuna_study, **arguments)
        figure.update_layout(title=f"{study.name}: {name}")
        pages.append(figure.to_html(full_html=False, include_plotlyjs=not pages))
        picture = folder / f"{name.replace('/', '-').replace(' ', '-')}.png"
        _save(drawn, picture)
        written.append(picture)
    body = "\n".join([_heading(study), *pages])
    page = f'<!doctype html>\n<meta charset="utf-8">\n<title>{study.name}</title>\n{body}\n'
    write_text(folder / "report.html", page)
    return [folder / "report.html", *written]


def _plots(study: Study, complete: list[FrozenTrial]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name of the figure, Optuna's function, its arguments."""
    searched, objectives = list(study.space.search), list(study.space.objectives)
    varied = [name for name in searched if len({trial.params[name] for trial in complete}) > 1]
    for number, metric in enumerate(objectives):
        of: dict[str, Any] = {"target_name": metric}
        if len(objectives) > 1:
            of["target"] = _value(number)
        suffix = f" of {metric}" if len(objectives) > 1 else ""
        yield f"history{suffix}", "plot_optimization_history", of
        if varied and len({trial.values[number] for trial in complete}) > 1:
            yield f"importance{suffix}", "plot_param_importances", of
        yield f"slices{suffix}", "plot_slice", {"params": searched, **of}
        pair = [name for name in _RATIOS if name in varied] + [name for name in varied if name not in _RATIOS]
        if len(pair) > 1:
            yield f"contour{suffix}", "plot_contour", {"params": pair[:2], **of}
    if len(objectives) == 2:
        yield "pareto front", "plot_pareto_front", {"target_names": objectives}


def _value(number: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: trial.values[number]


def _save(drawn: Any, file: Path) -> None:
    """A matplotlib axis, or an array of them."""
    import matplotlib.pyplot as plt

    axis = drawn.flat[0] if hasattr(drawn, "flat") else drawn
    with whole_file(file) as temporary:
        axis.figure.savefig(temporary, format="png", dpi=_DPI, bbox_inches="tight")
    plt.close(axis.figure)


def _heading(study: Study) -> str:
    found = {state: len(study.trials(state)) for state in TrialState}
    counts = ", ".join(f"{count} {state.name.lower()}" for state, count in found.items() if count)
    rows = [
        f"<tr><td>{trial.number}</td>{''.join(f'<td>{value:.4g}</td>' for value in trial.values)}"
        f"{''.join(f'<td>{_text(trial.params[name])}</td>' for name in study.space.search)}</tr>"
        for trial in study.best()
    ]
    heads = "".join(f"<th>{name}</th>" for name in ("trial", *study.space.objectives, *study.space.search))
    return f"<h1>{study.name}</h1>\n<p>{counts}</p>\n<table>\n<tr>{heads}</tr>\n{chr(10).join(rows)}\n</table>"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
