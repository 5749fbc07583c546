"""The everest command as a user's shell runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from everest.config import Experiment
from tests.services import HANGS_S


def environment(work: Path, **more: str) -> dict[str, str]:
    """One thread a process, so that sums come out the same however many run at once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EVEREST_")}
    return {**clean, "OMP_NUM_THREADS": "1", "EVEREST_WORK": str(work), "EVEREST_TRACKER": "none", **more}


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def everest(*arguments: object, work: Path, **more: str) -> Done:
    """In a process of its own."""
    return python_m("everest", *arguments, work=work, **more)


def python_m(module: str, *arguments: object, work: Path, **more: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment(work, **more),
        cwd=work,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Run:
    """A training run going on in processes of its own."""

    def __init__(self, config: Experiment, work: Path, processes: int = 1, **more: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        recipe = work / "recipe.yaml"
        recipe.write_text(config.to_yaml())
        self.folder = work / config.name
        launch = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
        )
        command = [sys.executable, *launch, "-m", "everest", config.stage, "--recipe", str(recipe)]
        self._log = (work / "log.txt").open("a")
        self.process = subprocess.Popen(
            command, env=environment(work, **more), cwd=work, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=HANGS_S)
        self._log.close()
        return code

    def wait_for_step(self, step: int) -> None:
        """Returns once that step is in the metrics."""
        deadline = time.monotonic() + HANGS_S
        while not any(line["step"] >= step for line in self.metrics()):
            assert self.process.poll() is None, "the run ended before the step"
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def kill(self, number: signal.Signals) -> int:
        """SIGKILL to every process of the run; any other signal to the one that was started. Returns the exit code."""
        if number == signal.SIGKILL:
            for process in [
                *psutil.Process(self.process.pid).children(recursive=True),
                psutil.Process(self.process.pid),
            ]:
                process.kill()
        else:
            self.process.send_signal(number)
        return self.wait()

    def metrics(self) -> list[dict[str, Any]]:
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]
