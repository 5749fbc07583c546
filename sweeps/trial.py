"""Trials that go on, and the jobs they wait for."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import optuna

from everest.config import Experiment
from orchestration.job import State

Numbers = Mapping[str, tuple[int, float]]  # metric -> step and newest value


@dataclass(eq=False)
class OpenTrial:
    trial: optuna.Trial
    stages: list[Experiment]
    at: int = 0  # the stage it is in
    reported: int = -1  # step

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def job(self) -> str:
        return self.stages[self.at].name

    @property
    def jobs(self) -> list[str]:
        """Up to that of the stage it is in."""
        return [stage.name for stage in self.stages[: self.at + 1]]

    @property
    def last(self) -> bool:
        return self.at == len(self.stages) - 1


@dataclass(eq=False)
class Job:
    """A stage's run and the trials that wait for it: several where they share a pre-training."""

    experiment: Experiment
    trials: list[OpenTrial]
    submitted: bool = False
    state: State = "pending"
    began: bool = False
    numbers: Numbers = field(default_factory=dict)
    continued_at: int = -1  # step
    fruitless: int = 0
    asked: float = field(default_factory=time.monotonic)
    hopeless_since: float | None = None
    halted_since: float | None = None  # that it has run and does not, in seconds of the epoch

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def step(self) -> int:
        """The newest that is known; -1: none."""
        return max((step for step, _ in self.numbers.values()), default=-1)
