"""How much a sweep may take, and how much it has taken."""

import time
from dataclasses import dataclass

from everest.errors import UsageError
from everest.progress import clock


@dataclass(frozen=True)
class Budget:
    """Limits of a whole study, over all its controllers. Trials that are under way when one is reached end."""

    parallel: int = 1
    trials: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None
    trial_hours: float | None = None  # of one trial's running jobs
    start_hours: float = 24.0  # a job may wait to start, whatever it waits for

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be more than 0")


class Spent:
    """By this study so far."""

    def __init__(self, trials: int, active_s: float, gpu_s: float) -> None:
        self.trials, self.gpu_s = trials, gpu_s
        self._before, self._since = active_s, time.monotonic()

    @property
    def active_s(self) -> float:
        return self._before + time.monotonic() - self._since

    def within(self, budget: Budget) -> bool:
        """Whether one more trial may begin."""
        return (
            (budget.trials is None or self.trials < budget.trials)
            and (budget.hours is None or self.active_s < budget.hours * 3600)
            and (budget.gpu_hours is None or self.gpu_s < budget.gpu_hours * 3600)
        )

    def describe(self, budget: Budget) -> str:
        """12/100 trials, 1:30:00 of 8 h, 12 GPU-hours"""
        parts = [f"{self.trials}{f'/{budget.trials}' if budget.trials else ''} trials", clock(self.active_s)]
        if budget.hours:
            parts[-1] += f" of {budget.hours:g} h"
        of = f" of {budget.gpu_hours:g}" if budget.gpu_hours else ""
        return ", ".join([*parts, f"{self.gpu_s / 3600:.3g}{of} GPU-hours"])
