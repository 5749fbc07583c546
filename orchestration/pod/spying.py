"""Stacks of processes that do not answer, read from outside: where py-spy is installed, and the kernel lets it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import dropwhile
from pathlib import Path

_PATIENCE_S = 10.0


def spied(pids: Iterable[int]) -> dict[int, list[str]]:
    """Lines of those that it can be said of; the others are no Python, or py-spy may not look. None is held up."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which("py-spy", path=beside)
    if program is None:
        return {}
    asked = {
        pid: subprocess.Popen(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        for pid in pids
    }
    deadline = time.monotonic() + _PATIENCE_S
    said = {pid: _said(spy, deadline) for pid, spy in asked.items()}
    return {pid: lines for pid, lines in said.items() if lines}


def _said(spy: "subprocess.Popen[str]", deadline: float) -> list[str]:
    """Its threads; before them it says what the process was started with."""
    try:
        said, _ = spy.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        spy.kill()
        said, _ = spy.communicate()
    return list(dropwhile(lambda line: not line.startswith("Thread "), said.splitlines())) if not spy.returncode else []
