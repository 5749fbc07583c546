"""A sweep's memory: an Optuna study with the space it was begun with. It survives whoever runs it."""

import json
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice, product
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from everest.errors import EverestError, UsageError
from sweeps.samplers import pruner_of, sampler_of
from sweeps.space import Space
from sweeps.storage import quiet

#: Attributes of trials, for people and for a controller that takes over.
REASON, LINES, JOBS, PRETRAINED, GPU_S, RUN_S = "reason", "last_lines", "jobs", "pretrained", "gpu_s", "run_s"
HALTED = "halted"  # a job that has run, and since when it does not
INFEASIBLE = "infeasible"
STATE_NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}

_SPACE, _STOP, _ACTIVE_S, _KEEP_BEST = "space", "stop", "active_s", "keep_best"
_LARGEST_GRID = 10_000
_TRIES = 1000  # draws in a row that break a constraint


class Study:
    """One sweep's trials. All draws depend on the seed and the trial's number alone, so far as the sampler allows."""

    def __init__(self, name: str, space: Space, storage: BaseStorage) -> None:
        self.name, self.space, self.storage = name, space, storage
        directions = [
            StudyDirection.MAXIMIZE if how == "max" else StudyDirection.MINIMIZE for how in space.objectives.values()
        ]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with quiet():
            self._optuna = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=directions,
                sampler=sampler_of(space, 0),
                pruner=pruner_of(space),
                load_if_exists=True,
            )
            self._optuna.set_metric_names(list(space.objectives))

    @classmethod
    def begin(cls, name: str, space: Space, storage: BaseStorage, keep_best: int | None = None) -> "Study":
        """A new one, which keeps the checkpoints of so many trials, or the one of that name that was begun with the
        same space. Raises UsageError."""
        if name in optuna.get_all_study_names(storage):
            study = cls.open(name, storage)
            _same_space(name, study.space, space)
        else:
            _drawable(space)
            study = cls(name, space, storage)
            study._optuna.set_user_attr(_SPACE, space.model_dump(mode="json", by_alias=True))
            study.note_keep_best(keep_best)
        if space.sampler == "grid":
            study._enqueue_grid()
        return study

    @classmethod
    def open(cls, name: str, storage: BaseStorage) -> "Study":
        """The one there is. Raises UsageError."""
        names = optuna.get_all_study_names(storage)
        if name not in names:
            raise UsageError(f"no sweep {name!r}; there are: {', '.join(sorted(names)) or 'none'}")
        attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
        if _SPACE not in attributes:
            raise UsageError(f"the Optuna study {name!r} is not one of everest-sweep; choose another --study")
        return cls(name, Space.parse(attributes[_SPACE]), storage)

    @property
    def optuna_study(self) -> optuna.Study:
        """For reading."""
        return self._optuna

    def draw(self) -> optuna.Trial:
        """The next trial whose values are possible; those that are not are noted as pruned. Raises EverestError."""
        for _ in range(_TRIES):
            trial = self._ask()
            if self._possible(trial):
                return trial
            self.tell(trial, TrialState.PRUNED)
        raise EverestError(f"{_TRIES} draws in a row break the constraints of {self.name}; widen its space")

    def take_up(self) -> list[optuna.Trial]:
        """Trials that an earlier controller left; what it had not yet drawn of them is drawn now."""
        left = []
        for known in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            with quiet():
                trial = self._filled(optuna.Trial(self._optuna, self._trial_id(known.number)))
            if self._possible(trial):
                left.append(trial)
            else:
                self.tell(trial, TrialState.PRUNED)
        return left

    def tell(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        with quiet():
            self._optuna.tell(trial, values=values, state=state)

    def put_back(self, trial: optuna.Trial) -> None:
        """It waits for a controller that goes on with it."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(self._trial_id(trial.number), TrialState.WAITING)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Those that were not impossible from the start, the first first."""
        found = self._optuna.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if INFEASIBLE not in trial.user_attrs]

    def best(self) -> list[FrozenTrial]:
        """The best trial, or those that none is better than in every objective; empty where none is complete."""
        if not self.trials(TrialState.COMPLETE):
            return []
        return self._optuna.best_trials if len(self.space.objectives) > 1 else [self._optuna.best_trial]

    def last_step(self, number: int) -> int:
        """That was reported of a trial; -1: none."""
        step = self.storage.get_trial(self._trial_id(number)).last_step
        return -1 if step is None else step

    @property
    def any_left(self) -> bool:
        """False once every point of a grid was drawn; without one there is always another trial."""
        return self.space.sampler != "grid" or bool(self.trials(TrialState.WAITING))

    @property
    def stop_asked(self) -> str | None:
        """leave or cancel, where somebody wants the controller to stop."""
        return self._attributes().get(_STOP)

    def ask_to_stop(self, jobs: str | None) -> None:
        self._optuna.set_user_attr(_STOP, jobs)

    @property
    def active_s(self) -> float:
        """Seconds that controllers have been at work."""
        return float(self._attributes().get(_ACTIVE_S, 0))

    @property
    def keep_best(self) -> int | None:
        """Trials whose checkpoints stay; None: all, as long as nobody has said otherwise."""
        return self._attributes().get(_KEEP_BEST)

    def note_keep_best(self, trials: int | None) -> None:
        self._optuna.set_user_attr(_KEEP_BEST, trials)

    def note_active(self, seconds: float) -> None:
        self._optuna.set_user_attr(_ACTIVE_S, seconds)

    def _attributes(self) -> dict[str, Any]:
        return self.storage.get_study_user_attrs(self._id)

    @property
    def _id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)

    def _ask(self) -> optuna.Trial:
        with quiet():
            return self._filled(self._optuna.ask())

    def _filled(self, trial: optuna.Trial) -> optuna.Trial:
        """The sampler is made anew for each: a controller that was restarted draws what the first would have drawn."""
        self._optuna.sampler = sampler_of(self.space, trial.number)
        for name, parameter in self.space.search.items():
            parameter.draw(trial, name)
        return trial

    def _trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _possible(self, trial: optuna.Trial) -> bool:
        violations = self.space.violations(trial.params)
        for constraint in violations.keys() - trial.constraints.keys():
            trial.set_constraint(constraint, violations[constraint])
        broken = [constraint for constraint, value in violations.items() if value > 0]
        reason = f"not {broken[0]}" if broken else ""
        if not broken:
            try:
                self.space.experiments(trial.params)
            except UsageError as error:
                reason = str(error)
        if reason:
            trial.set_user_attr(INFEASIBLE, reason)
        return not reason

    def _enqueue_grid(self) -> None:
        """Every possible point, in an order that the seed decides; those that wait already stay."""
        grids = {name: parameter.grid() for name, parameter in self.space.search.items()}
        points = [
            dict(zip(grids, values, strict=True)) for values in islice(product(*grids.values()), _LARGEST_GRID + 1)
        ]
        if len(points) > _LARGEST_GRID:
            raise UsageError(f"the grid of {self.name} has more than {_LARGEST_GRID} points; use larger steps")
        points.sort(key=lambda point: sha256(f"{self.space.seed} {json.dumps(point)}".encode()).digest())
        known = {_key(trial.system_attrs.get("fixed_params", {})) for trial in self._optuna.get_trials(deepcopy=False)}
        for point in points:
            if _key(point) not in known and max(self.space.violations(point).values(), default=0) <= 0:
                self._optuna.enqueue_trial(point)


def _same_space(name: str, begun: Space, now: Space) -> None:
    before, after = (
        _flat(begun.model_dump(mode="json", by_alias=True)),
        _flat(now.model_dump(mode="json", by_alias=True)),
    )
    changed = [
        f"{key} {before.get(key)} -> {after.get(key)}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
    ]
    if changed:
        raise UsageError(f"sweep {name} was begun with another space ({'; '.join(changed)}); choose another --study")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _drawable(space: Space) -> None:
    """Raises UsageError where of many draws none is possible."""
    trial_space = space.model_copy(update={"sampler": "random"})
    study = Study("drawable", trial_space, optuna.storages.InMemoryStorage())
    for _ in range(200):
        trial = study._ask()
        if study._possible(trial):
            return
    reason = trial.user_attrs[INFEASIBLE]
    raise UsageError(f"space {space.name}: of 200 draws none is possible, the last because {reason}")


def _key(point: dict[str, Any]) -> str:
    return json.dumps(point, sort_keys=True)
