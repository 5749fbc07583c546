"""GPUs of a job that idle for long: that is said, and where a setting says so the job is ended."""

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping

from everest.machine import node
from orchestration.settings import PlatformSettings
from orchestration.watch import lasting

log = logging.getLogger(__name__)

_UTILISATION = re.compile(r"system/gpu_\d+_utilization_percentage")  # as MLflow's collector calls it


class IdleGpus:
    """Of the first process's pod. They idle while the mean over ``idle_s`` of the busiest one is under a bound."""

    def __init__(self, settings: PlatformSettings, tell: Callable[[str], None], end: Callable[[str], None]) -> None:
        """``tell`` is called with a line each time that they have begun to idle, ``end`` where they are not to."""
        self._percent, self._for_s, self._ends = settings.idle_percent, settings.idle_s, settings.idle_end
        self._tell, self._end, self._node = tell, end, node()
        self._looks: deque[tuple[float, float]] = deque()  # seconds, percent
        self._line = ""

    def see(self, measured: Mapping[str, float], seconds: float) -> str | None:
        """``measured`` of the last so many seconds. Returns the line when they idle, an empty one when they work again.

        None where that is nothing new, or nothing is known of GPUs: there are none, or parts of one (MIG).
        """
        busy = [value for name, value in measured.items() if _UTILISATION.fullmatch(name)]
        if not busy:
            return None
        self._looks.append((seconds, max(busy)))
        whole_s = sum(each for each, _ in self._looks)
        while whole_s - self._looks[0][0] >= self._for_s:
            whole_s -= self._looks.popleft()[0]
        mean = sum(each * percent for each, percent in self._looks) / whole_s
        idle = whole_s >= self._for_s and mean < self._percent
        if idle == bool(self._line):
            return None
        self._line = self._said(len(busy), mean) if idle else ""
        self._act()
        return self._line

    def _said(self, count: int, mean: float) -> str:
        gpus = "GPU of" if count == 1 else f"{count} GPUs of"
        return f"the {gpus} {self._node} idled: {mean:.1f} % busy over {lasting(self._for_s)}"

    def _act(self) -> None:
        if not self._line:
            log.info("the GPUs of %s work again", self._node)
            return
        log.warning("%s; everest-jobs profile shows what the steps do", self._line)
        self._tell(self._line)
        if self._ends:
            self._end(f"{self._line}; the job is ended (EVEREST_IDLE_END)")
