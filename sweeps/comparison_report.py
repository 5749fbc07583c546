"""What a comparison found: a table, a plot, and a page that holds both."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from optuna.trial import TrialState

from everest.files import whole_file, write_text
from sweeps.comparison import Comparison
from sweeps.intervals import Interval, mean_interval, paired_interval
from sweeps.space import VARIANT
from sweeps.study import Study

Values = Mapping[str, Mapping[int, float]]  # method -> seed -> what was measured


class Row(NamedTuple):
    method: str
    found: Interval
    difference: Interval | None  # to the first method, of the seeds that both have; None: it is the first, or has none
    values: Mapping[int, float]
    steps: str


def values_of(comparison: Comparison, study: Study) -> dict[str, dict[int, float]]:
    """Of the trials that are complete."""
    found: dict[str, dict[int, float]] = {method: {} for method in comparison.methods}
    for trial in study.trials(TrialState.COMPLETE):
        found[trial.params[VARIANT]][trial.params["seed"]] = trial.values[0]
    return found


def rows_of(comparison: Comparison, study: Study) -> list[Row]:
    """Of each method that has a value, in their order."""
    values = values_of(comparison, study)
    first = values[comparison.methods[0]]
    rows = []
    for method, found in values.items():
        if not found:
            continue
        both = sorted(found.keys() & first.keys()) if method != comparison.methods[0] else []
        difference = paired_interval([found[seed] for seed in both], [first[seed] for seed in both]) if both else None
        rows.append(Row(method, mean_interval(list(found.values())), difference, found, _steps(study, method)))
    return rows


def table(comparison: Comparison, rows: Sequence[Row]) -> list[list[str]]:
    """Titles, then a line for each method."""
    first = comparison.methods[0]
    lines = [["method", "steps", "seeds", comparison.measure, "95 %", f"difference to {first}", "95 %"]]
    for row in rows:
        apart = row.difference
        lines.append(
            [
                row.method,
                row.steps,
                str(len(row.values)),
                f"{row.found.mean:.4f}",
                f"{row.found.low:.4f} to {row.found.high:.4f}",
                f"{apart.mean:+.4f}" if apart else "",
                f"{apart.low:+.4f} to {apart.high:+.4f}" if apart else "",
            ]
        )
    return lines


def write_comparison(comparison: Comparison, study: Study, folder: Path) -> list[Path]:
    """``report.html``, ``comparison.png`` and ``comparison.json`` in ``folder``; nothing where no trial is complete."""
    rows = rows_of(comparison, study)
    if not rows:
        return []
    picture, numbers, page = (folder / name for name in ("comparison.png", "comparison.json", "report.html"))
    _plot(comparison, rows, picture)
    found = {row.method: {"values": row.values, "mean": row.found, "difference": row.difference} for row in rows}
    write_text(numbers, json.dumps({"comparison": comparison.model_dump(mode="json"), "found": found}, indent=1))
    lines = table(comparison, rows)
    cells = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
        for tag, line in zip(["th", *["td"] * len(rows)], lines, strict=True)
    ]
    image = base64.b64encode(picture.read_bytes()).decode()
    equal = {"flops": "operations of training", "steps": "steps"}[comparison.equal]
    body = [
        f"<h1>{comparison.name}</h1>",
        f"<p>Equal {equal}. Means over seeds, intervals by the bootstrap, differences of runs with the same seed.</p>",
        "<table>",
        *cells,
        "</table>",
        f'<img alt="{html.escape(comparison.measure)} by method" src="data:image/png;base64,{image}">',
    ]
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>{comparison.name}</title>\n'
    write_text(page, head + "<style>td, th {text-align: left; padding-right: 1em}</style>\n" + "\n".join(body) + "\n")
    return [page, picture, numbers]


def _steps(study: Study, method: str) -> str:
    """Of its stages."""
    return " + ".join(str(stage.variants[method]["optim.steps"]) for _, stage in study.space.stages())


def _plot(comparison: Comparison, rows: Sequence[Row], png: Path) -> None:
    figure = Figure(figsize=(1.6 + 1.1 * len(rows), 3.6), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(rows):
        axes.plot([at] * len(row.values), list(row.values.values()), "o", color="0.7", markersize=4)
        low, high = row.found.mean - row.found.low, row.found.high - row.found.mean
        axes.errorbar(at, row.found.mean, [[low], [high]], fmt="_", color="C0", markersize=16, capsize=5, linewidth=2)
    axes.set_xticks(range(len(rows)), [row.method for row in rows])
    axes.set(ylabel=comparison.measure, title=f"{comparison.name}, 95 %")
    axes.grid(axis="y", alpha=0.3)
    with whole_file(png) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
