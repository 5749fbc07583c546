"""Checkpoints of a sweep's best trials stay; those of trials that can no longer be among them go by themselves.

Which trials those are, the study says, and what of them is needed all the same, the rules of ``everest-jobs gc``.
Nothing is noted: whoever goes on with the sweep looks again at what is there.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from everest.errors import EverestError
from orchestration.gc.command import shown_bytes
from orchestration.gc.rules import Rules, Sweep, Trial, decide, let_go
from sweeps.study import STATE_NAMES, Study

if TYPE_CHECKING:
    from orchestration.gc.facts import Shelf

log = logging.getLogger(__name__)

KEEP_BEST = 10  # unless somebody says otherwise
_APART_S = 300.0  # between looks, each at all the runs there are


class Keeping:
    """A Listener. It looks and removes beside the sweep, and never fails it."""

    def __init__(self, study: Study, best: int | None, shelf: Callable[[], "Shelf"], apart_s: float = _APART_S) -> None:
        """``best``: trials whose checkpoints stay; None: all."""
        self._study, self._best, self._shelf, self._apart_s = study, best, shelf, apart_s
        self._pool = ThreadPoolExecutor(1, "keeping")
        self._looking: Future[None] | None = None
        self._looked_at = -apart_s
        self._settled = set[int]()  # of the trials that may go: nothing more can be done now
        self._closing = False

    def begun(self, number: int, values: Mapping[str, object]) -> None:
        """Lets nothing go."""

    def ended(
        self, number: int, state: TrialState, jobs: Iterable[str], numbers: Mapping[str, float], reason: str
    ) -> None:
        self.look()

    def look(self) -> None:
        """Begins to remove what may go, unless it is at it, or was a moment ago."""
        if (self._looking and not self._looking.done()) or time.monotonic() - self._looked_at < self._apart_s:
            return
        sweep = self._sweep()
        if self._may_go(sweep) - self._settled:
            self._looked_at = time.monotonic()
            self._looking = self._pool.submit(self._remove, sweep)

    def finish(self) -> None:
        """Of a sweep that has come to its end: returns when all that may go is gone."""
        if self._looking:
            self._looking.result()
        sweep = self._sweep()
        if self._may_go(sweep):
            self._remove(sweep)

    def close(self) -> None:
        """The last call: ends with the run that is being removed."""
        self._closing = True
        self._pool.shutdown()

    def _sweep(self) -> Sweep:
        objectives = self._study.space.objectives.values()
        trials = {
            trial.number: Trial(STATE_NAMES.get(trial.state, ""), tuple(trial.values or ()))
            for trial in self._study.trials()
        }
        return Sweep(tuple(how == "max" for how in objectives), trials, going=True)

    def _may_go(self, sweep: Sweep) -> set[int]:
        return let_go(sweep, self._best) if self._best else set()

    def _remove(self, sweep: Sweep) -> None:
        try:
            self._try_to_remove(sweep)
        except EverestError as error:
            log.warning(
                "%s: checkpoints of trials that are not among the best stay for now: %s", self._study.name, error
            )

    def _try_to_remove(self, sweep: Sweep) -> None:
        from orchestration.gc.removal import remove

        name, shelf = self._study.name, self._shelf()
        facts = shelf.facts()
        ours = [run for run in facts.runs if run.study == name and run.trial is not None]
        later = {run.trial for run in ours if run.name in facts.jobs}  # they are about to end
        removed, size = 0, 0
        for verdict in decide(replace(facts, runs=ours, sweeps={name: sweep}), Rules(best=self._best)):
            if self._closing:
                return
            if not verdict.parts:
                continue
            if remove(shelf, verdict):
                later.add(verdict.run.trial)
            else:
                removed, size = removed + 1, size + (verdict.run.sizes["checkpoints"] or 0)
        self._settled = self._may_go(sweep) - later
        if removed:
            said = "%s: checkpoints removed of trials that are not among the best %d: %d of them, %s"
            log.info(said, name, self._best, removed, shown_bytes(size))
