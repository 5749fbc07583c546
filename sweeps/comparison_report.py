"""A comparison's report: tables, a plot, and one page that holds both and the pictures."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from everest.files import whole_file, write_text
from sweeps.comparison import Comparison
from sweeps.findings import Curve, Row
from sweeps.study import Study

EQUAL = {"flops": "operations of training", "steps": "steps", "seconds": "seconds of training"}


def table(comparison: Comparison, study: Study, measure: str, rows: Sequence[Row]) -> list[list[str]]:
    """Titles, then a line for each method."""
    lines = [["method", "steps", "seeds", measure, "95 %", f"difference to {comparison.methods[0]}", "95 %"]]
    for row in rows:
        apart = row.difference
        lines.append(
            [
                row.method,
                _steps(study, row.method),
                str(len(row.values)),
                f"{row.found.mean:.4f}",
                f"{row.found.low:.4f} to {row.found.high:.4f}",
                f"{apart.mean:+.4f}" if apart else "",
                f"{apart.low:+.4f} to {apart.high:+.4f}" if apart else "",
            ]
        )
    return lines


def write_comparison(
    comparison: Comparison,
    study: Study,
    found: Mapping[str, Sequence[Row]],
    curves: Mapping[str, Curve],
    pictures: Mapping[str, bytes],
    folder: Path,
) -> list[Path]:
    """``report.html``, ``comparison.png`` and ``comparison.json`` in ``folder``. ``pictures``: PNG by method."""
    picture, numbers, page = (folder / name for name in ("comparison.png", "comparison.json", "report.html"))
    _plot(comparison, found, curves, picture)
    measured = {
        measure: {row.method: {"values": row.values, "mean": row.found, "difference": row.difference} for row in rows}
        for measure, rows in found.items()
    }
    written = {"comparison": comparison.model_dump(mode="json"), "found": measured, "curves": curves}
    write_text(numbers, json.dumps(written, indent=1))
    write_text(page, _page(comparison, study, found, {"plot": picture.read_bytes(), **pictures}))
    return [page, picture, numbers]


def _page(
    comparison: Comparison, study: Study, found: Mapping[str, Sequence[Row]], pictures: Mapping[str, bytes]
) -> str:
    equal = f"Equal {EQUAL[comparison.equal]}. Means over seeds, intervals by the bootstrap."
    body = [f"<h1>{comparison.name}</h1>", f"<p>{equal} Differences are of runs with the same seed.</p>"]
    for measure, rows in found.items():
        titles, *lines = table(comparison, study, measure, rows)
        body += ["<table>", _cells("th", titles), *(_cells("td", line) for line in lines), "</table>"]
    for name, png in pictures.items():
        title = "" if name == "plot" else f"<h2>{html.escape(name)}</h2>\n"
        body.append(
            f'{title}<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        )
    style = "<style>td, th {text-align: left; padding-right: 1em} img {max-width: 100%}</style>"
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>{comparison.name}</title>\n{style}\n'
    return head + "\n".join(body) + "\n"


def _cells(tag: str, line: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"


def _steps(study: Study, method: str) -> str:
    """Of its stages."""
    return " + ".join(str(stage.variants[method]["optim.steps"]) for _, stage in study.space.stages())


def _plot(comparison: Comparison, found: Mapping[str, Sequence[Row]], curves: Mapping[str, Curve], png: Path) -> None:
    panels = len(found) + bool(curves)
    width = 1.6 + 0.9 * len(comparison.methods)
    figure = Figure(figsize=(width * panels, 3.6), layout="constrained")
    all_axes = figure.subplots(1, panels, squeeze=False)[0]
    for axes, (measure, rows) in zip(all_axes, found.items(), strict=False):
        _means(axes, measure, rows)
    if curves:
        axes = all_axes[-1]
        for method, curve in curves.items():
            axes.plot([flops / 1e15 for flops in curve.flops], curve.values, label=method)
        axes.set(xlabel="training, 10$^{15}$ FLOPs", ylabel=comparison.curve)
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{comparison.name}: equal {EQUAL[comparison.equal]}, 95 %", fontsize="medium")
    with whole_file(png) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _means(axes: Axes, measure: str, rows: Sequence[Row]) -> None:
    for at, row in enumerate(rows):
        axes.plot([at] * len(row.values), list(row.values.values()), "o", color="0.7", markersize=4)
        low, high = row.found.mean - row.found.low, row.found.high - row.found.mean
        axes.errorbar(at, row.found.mean, [[low], [high]], fmt="_", color="C0", markersize=16, capsize=5, linewidth=2)
    axes.set_xticks(range(len(rows)), [row.method for row in rows], rotation=30)
    axes.set(ylabel=measure)
    axes.grid(axis="y", alpha=0.3)
