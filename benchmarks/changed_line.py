"""Seconds from a changed line to a job's first step: ``python -m benchmarks.changed_line RECIPE [--SETTING VALUE …]``.

On the cluster that the settings name, twice: with the image's code, and with this working tree and a file in it that
was never there before, so that all of it is sent. Both jobs are cancelled when they have made a step.
"""

import argparse
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from everest.errors import EverestError
from everest.program import exit_code

_JOBS = [sys.executable, "-u", "-m", "orchestration"]
_ROOT = Path(__file__).resolve().parents[1]


class Moments(NamedTuple):
    """Seconds since the command was typed."""

    submitted: float
    pod: float  # when its worker speaks: scheduled, its code there
    step: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    options, settings = parser.parse_known_args()
    sys.exit(exit_code("changed-line", lambda: _measure([options.recipe, *settings])))


def _measure(arguments: Sequence[str]) -> None:
    table = Table("code", "submitted, s", "the pod speaks, s", "first step, s")
    changed = _ROOT / f"changed-{uuid.uuid4().hex}.txt"
    rows = {"the image's": _moments([*arguments, "--no-code"])}
    changed.write_text("a line\n")
    try:
        rows["this tree, changed"] = _moments(arguments)
    finally:
        changed.unlink()
    for name, moments in rows.items():
        table.add_row(name, *(f"{moment:.1f}" for moment in moments))
    Console(soft_wrap=True).print(table)


def _moments(arguments: Sequence[str]) -> Moments:
    """Raises EverestError where the job ends before its first step."""
    name, begun = f"changed-{uuid.uuid4().hex[:8]}", time.monotonic()
    submit = ["submit", *arguments, "--name", name, "--keep.log_steps", "1"]
    if subprocess.run([*_JOBS, *submit], check=False).returncode:
        raise EverestError("the job was not taken; what was said is above")
    submitted = time.monotonic() - begun
    following = subprocess.Popen([*_JOBS, "logs", name, "-f"], stdout=subprocess.PIPE, text=True)
    pod = 0.0
    try:
        assert following.stdout
        for line in following.stdout:
            pod = pod or time.monotonic() - begun
            if re.search(rf"\b{name} 1/\d+ ", line):
                return Moments(submitted, pod, time.monotonic() - begun)
    finally:
        following.terminate()
        following.wait()
        subprocess.run([*_JOBS, "cancel", name], check=False)
    raise EverestError(f"{name} ended before its first step: everest-jobs logs {name}")


if __name__ == "__main__":
    main()
