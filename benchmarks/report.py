"""What was measured: as tables, as JSON, as a plot."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.case import Precision
from benchmarks.parts import PARTS
from everest.files import write_text

Row = dict[str, Any]

_WIDTH = 160  # characters, on a narrower terminal too


class Report:
    """Numbers come in one by one, and are written down at once where a file is given."""

    def __init__(self, machine: Mapping[str, str | int], rates: Mapping[Precision, float], file: Path | None) -> None:
        self._machine, self._rates, self._file = machine, rates, file
        self._rows: dict[str, list[Row]] = {}

    def head(self) -> list[str]:
        said = ", ".join(f"{name} {value}" for name, value in self._machine.items())
        return [said, ", ".join(f"{rate / 1e12:.3g} TFLOPS in {name}" for name, rate in self._rates.items())]

    def add(self, section: str, row: Row) -> None:
        self._rows.setdefault(section, []).append(row)
        if self._file:
            whole = {"command": sys.argv, "machine": self._machine, "flops_per_s": self._rates, **self._rows}
            write_text(self._file, json.dumps(whole, indent=1) + "\n")

    def show(self) -> None:
        for section, rows in self._rows.items():
            Console(width=_WIDTH).print(_TABLES[section](rows))

    def plot(self, file: Path) -> None:
        from benchmarks.plot import draw

        draw(self._rows.get("lengths", []), file)


def _steps(rows: list[Row]) -> Table:
    gpu = any("waits" in row for row in rows)
    columns = ["step", "clips", "ours s", "theirs s", "times faster", "by CPU time", "products", "clips/s"]
    columns += ["MFU", "waits"] if gpu else []
    table = Table(*columns, "kept MB/clip", "theirs", "peak MB", "theirs", title="whole steps")
    for row in rows:
        hardware = [_percent(row, "mfu"), _number(row, "waits", 0)] if gpu else []
        table.add_row(
            _title(row) + (" compiled" if row["compiled"] else ""),
            str(row["batch"]),
            _number(row, "ours_s"),
            "out of memory" if row.get("theirs_out_of_memory") else _number(row, "theirs_s"),
            _number(row, "times_faster", 2),
            _number(row, "times_less_cpu", 2),
            _percent(row, "products_share"),
            _number(row, "clips_per_s"),
            *hardware,
            *(
                _number(row, f"{side}_{kind}", 0)
                for kind in ("saved_mb_per_clip", "peak_mb")
                for side in ("ours", "theirs")
            ),
        )
    return table


def _parts(rows: list[Row]) -> Table:
    used = [part for part in PARTS if any(part in row["seconds"] for row in rows)]
    table = Table("ms of a step", *used, title="parts of our step")
    for row in rows:
        table.add_row(_title(row), *(f"{1e3 * row['seconds'].get(part, 0):.0f}" for part in used))
    return table


def _lengths(rows: list[Row]) -> Table:
    table = Table("clip", "s/clip", "kept MB/clip", "clips", "peak MB", title="longer and larger clips")
    for row in rows:
        table.add_row(
            f"{_title(row)}, {row['frames']} x {row['image_size']}",
            "out of memory" if row.get("out_of_memory") else _number(row, "seconds_per_clip"),
            _number(row, "saved_mb_per_clip", 0),
            str(row["batch"]),
            _number(row, "peak_mb", 0),
        )
    return table


def _processes(rows: list[Row]) -> Table:
    table = Table("step", "processes", "clips each", "s", "clips/s", "of linear", title="several processes")
    for row in rows:
        alone = next(each for each in rows if _title(each) == _title(row))
        table.add_row(
            _title(row),
            str(row["processes"]),
            str(row["batch"]),
            _number(row, "seconds"),
            _number(row, "clips_per_s"),
            f"{alone['seconds'] / row['seconds']:.0%}",
        )
    return table


def _memory(rows: list[Row]) -> Table:
    table = Table("pre-training", "clips", "GB", "the paper's", title="memory of 8 GPUs, 8 times that of one")
    for row in rows:
        used = "out of memory" if row.get("out_of_memory") else _number(row, "gb", 1)
        table.add_row(row["size"], str(row["batch"]), used, f"{row['paper_gb']:g}")
    return table


_TABLES = {"steps": _steps, "parts": _parts, "lengths": _lengths, "processes": _processes, "memory": _memory}


def _title(row: Row) -> str:
    return f"{row['stage']} {row['size']} {row['precision']}" + (" recomputing" if row["recompute"] else "")


def _number(row: Row, name: str, digits: int | None = None) -> str:
    """Three figures, or so many digits after the point; empty where it was not measured."""
    value = row.get(name)
    if value is None:
        return ""
    return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"


def _percent(row: Row, name: str) -> str:
    return f"{row[name]:.0%}" if name in row else ""
