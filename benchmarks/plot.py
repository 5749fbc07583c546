"""Time and memory of a clip against its length and its size."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from everest.files import whole_file

Row = dict[str, Any]


def draw(rows: list[Row], file: Path) -> None:
    """A PNG with seconds above and megabytes below, by frames on the left and by pixels on the right."""
    first = rows[0]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex="col", sharey="row")
    for column, (changed, held, label) in enumerate(
        (("frames", "image_size", "frames"), ("image_size", "frames", "height and width, pixels"))
    ):
        chosen = [row for row in rows if row[held] == first[held]]
        for line, (measured, title) in enumerate(
            (("seconds_per_clip", "seconds a clip"), ("peak_mb", f"megabytes at most, {first['batch']} clips"))
        ):
            _lines(axes[line][column], chosen, changed, measured)
            axes[line][column].set_xticks(sorted({row[changed] for row in chosen}))
            axes[line][column].set_xlabel(label if line else "")
            axes[line][column].set_ylabel("" if column else title)
    for line in (0, 1):
        axes[line][0].set_ylim(bottom=0)
    axes[0][0].legend()
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def _lines(axis: Axes, rows: list[Row], changed: str, measured: str) -> None:
    kinds = dict.fromkeys((row["stage"], row["size"], row["precision"]) for row in rows)
    for kind in kinds:
        points = [
            (row[changed], row[measured])
            for row in rows
            if (row["stage"], row["size"], row["precision"]) == kind and measured in row
        ]
        axis.plot(*zip(*sorted(points), strict=True), marker="o", label=" ".join(kind))
