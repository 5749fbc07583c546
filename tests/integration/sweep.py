"""The everest-sweep command as a user's shell runs it."""

import subprocess
import sys
from pathlib import Path

from tests.integration.command import Done, environment
from tests.services import HANGS_S


class Sweeps:
    def __init__(self, work: Path) -> None:
        self.work = work
        # Jobs are tracked in the work folder's own MLflow.
        clean = {name: value for name, value in environment(work).items() if name != "EVEREST_TRACKER"}
        self.environment = {**clean, "PYTHONWARNINGS": "ignore"}

    def run(self, *arguments: object, module: str = "sweeps") -> Done:
        process = self.start(*arguments, module=module)
        out, err = process.communicate(timeout=HANGS_S)
        return Done(process.returncode, out, err)

    def start(self, *arguments: object, log: Path | None = None, module: str = "sweeps") -> "subprocess.Popen[str]":
        """``log``: where what it says goes, instead of into pipes."""
        stream = log.open("a") if log else subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)], env=self.environment, cwd=self.work, text=True,
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
