"""Profiles steps of a run that goes on, for who asks by a file in the run's folder (``everest/profile_files.py``)."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from everest.errors import EverestError
from everest.files import publish, write_text
from everest.profile_files import answers, question
from everest.program import one_line
from everest.training.distributed import Process

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_WARMUP = 1  # steps before those that are asked for, in which the profiler itself begins to work


class Profile:
    """Of one process. As long as nobody asks it looks for a file once a second, and does nothing else."""

    def __init__(self, folder: Path, process: Process, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._process, self._clock = folder, process, clock
        self._question = folder / question(process.rank)
        self._look_at = -math.inf

    def over(self, steps: range) -> Iterator[int]:
        """The same steps, to be done one after the other. No run fails by a profile."""
        numbers = iter(steps)
        for step in numbers:
            yield step
            if self._is_asked():
                yield from self._profiled(numbers, steps.stop - step - 1)

    def _is_asked(self) -> bool:
        if self._clock() < self._look_at:
            return False
        self._look_at = self._clock() + _LOOK_EVERY_S
        return self._question.exists()

    def _profiled(self, numbers: Iterator[int], left: int) -> Iterator[int]:
        """Steps of the ``left`` ones, until the question is answered."""
        trace = refusal = None
        try:
            asked = json.loads(self._question.read_text())
            trace, refusal = (self._folder / name for name in answers(self._process.rank, str(asked["id"])))
            steps = int(asked["steps"])
            if steps + _WARMUP > left:
                raise EverestError(f"{left} steps of the run are left; {steps}, and one before them, do not fit")
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it would tell of its own doings, and that there is no GPU
            from torch.profiler import profile, schedule

            with profile(schedule=schedule(wait=0, warmup=_WARMUP, active=steps, repeat=1)) as profiler:
                for step in islice(numbers, _WARMUP + steps):
                    yield step
                    profiler.step()
            with self._process.pulse.during("saving"), TemporaryDirectory(dir=trace.parent) as scratch:
                written = Path(scratch) / trace.name
                profiler.export_chrome_trace(str(written))
                publish(written, trace)
        except Exception as error:
            log.warning("no steps are profiled: %s", one_line(error))
            with suppress(OSError):
                if refusal:
                    write_text(refusal, one_line(error))
        finally:
            with suppress(OSError):
                self._question.unlink(missing_ok=True)
