"""What a sweep searches: ranges of settings by dotted name, what must hold between them, and what is wanted.

A trial is one or two runs, its stages: pre-training, then fine-tuning from it. Trials whose pre-training has the same
settings share it.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from everest.config import Experiment, check_value, setting_names
from everest.errors import UsageError
from sweeps.shipped import read_shipped, shipped_names

Values = Mapping[str, Any]  # of the searched settings, by dotted name

#: Which of the variants a trial has: drawn as settings are.
VARIANT = "variant"

_CONSTRAINT = re.compile(r"^\s*(\S+)\s*(<=|<)\s*(\S+)\s*$")
_DIGITS = 10  # of a float: 0.15000000000000002 is 0.15


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Parameter(Part):
    """The values a setting may take: exactly one of ``float``, ``int`` and ``categorical``."""

    floats: tuple[float, float] | None = Field(None, alias="float", description="lowest and highest")
    ints: tuple[int, int] | None = Field(None, alias="int", description="lowest and highest")
    categorical: tuple[bool | int | float | str | None, ...] | None = Field(None, min_length=1)
    log: bool = False
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.floats, self.ints, self.categorical)) != 1:
            raise ValueError("needs one of float: [low, high], int: [low, high] and categorical: [a, b, …]")
        if self.categorical is not None and (self.log or self.step):
            raise ValueError("log and step are for ranges of numbers")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                self._check()
            except UserWarning:
                raise ValueError(f"{list(self.ends)} is not a whole number of steps of {self.step:g}") from None
        return self

    def _check(self) -> None:
        """Raises what Optuna says of a range that is none."""
        if self.floats:
            FloatDistribution(*self.floats, log=self.log, step=self.step)
        elif self.ints:
            IntDistribution(*self.ints, log=self.log, step=int(self.step or 1))
        else:
            CategoricalDistribution(self.categorical or ())

    def draw(self, trial: Trial, name: str) -> None:
        """Gives the trial its value of this setting, where it has none yet."""
        if self.floats:
            trial.suggest_float(name, *self.floats, log=self.log, step=self.step)
        elif self.ints:
            trial.suggest_int(name, *self.ints, log=self.log, step=int(self.step or 1))
        else:
            trial.suggest_categorical(name, self.categorical or ())

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.floats or self.ints or self.categorical or ()

    def grid(self) -> tuple[Any, ...]:
        """All values. Raises UsageError where they cannot be counted."""
        if self.categorical:
            return self.categorical
        if self.floats and self.step is None:
            raise UsageError(f"a grid needs a step for float {list(self.floats)}")
        low, high = self.floats or self.ints or (0, 0)
        step = self.step or 1
        kind = int if self.ints else float
        return tuple(round(kind(low + step * k), _DIGITS) for k in range(round((high - low) / step) + 1))


class Stage(Part):
    """A run of every trial."""

    recipe: str = Field(description="a shipped recipe or a YAML file")
    fixed: dict[str, Any] = Field({}, description="settings that differ from the recipe's, in the best recipe too")
    short: dict[str, Any] = Field({}, description="settings that make a trial short; not in the best recipe")
    variants: dict[str, dict[str, Any]] = Field({}, description="settings by the name of a variant; a trial has one's")
    search: dict[str, Parameter] = {}


class Space(Part):
    """A sweep's file, whole."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")
    pretrain: Stage | None = None
    finetune: Stage | None = None
    constraints: tuple[str, ...] = Field((), description="such as mask.visible_ratio < mask.keep_ratio")
    objectives: dict[str, Literal["max", "min"]] = Field(min_length=1, description="metrics of the last stage's run")
    prune: str | None = Field(None, description="metric of the last stage that tells early how the objective will be")
    sampler: Literal["tpe", "nsga2", "nsga3", "gp", "random", "grid", "qmc"] = "tpe"
    pruner: Literal["median", "hyperband", "patient", "none"] = "median"
    prune_after: int = Field(5, ge=1, description="median, patient: trials that must be complete before one is pruned")
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        stages = dict(self.stages())
        if not stages:
            raise ValueError("needs a stage: pretrain, finetune or both")
        for kind, stage in stages.items():
            begun = Experiment.load(stage.recipe)
            if begun.stage != kind:
                raise ValueError(f"{kind}.recipe = {stage.recipe!r} is a recipe for {begun.stage}")
            for variant in stage.variants.values() or [{}]:
                begun.override({**stage.fixed, **stage.short, **variant})
            for name, parameter in stage.search.items():
                for end in parameter.ends:
                    check_value(name, end)
                if name in {*stage.fixed, *stage.short}:
                    raise ValueError(f"{kind}: {name} is searched and set")
                if name in {"name", "stage", "init"}:
                    raise ValueError(f"{kind}: {name} is no setting to search")
                if self.pretrain and self.pretrain.search.get(name, parameter) != parameter:
                    raise ValueError(f"{name} is searched in both stages, and must have the same range in both")
        if not self.search:
            raise ValueError("nothing is searched; pretrain.search or finetune.search says what")
        for constraint in self.constraints:
            _sides(constraint, self.search)
        if len(self.objectives) > 1 and self.prune:
            raise ValueError("prune needs a single objective: of several, no trial is worse early")
        return self

    @model_validator(mode="after")
    def _variants_are_of_both_stages(self) -> Self:
        if len({tuple(sorted(stage.variants)) for _, stage in self.stages() if stage.variants}) > 1:
            raise ValueError("pretrain.variants and finetune.variants have other names")
        return self

    @classmethod
    def load(cls, source: str | Path) -> "Space":
        """The shipped space of that name, or the YAML file at that path. Raises UsageError with one line."""
        return cls.parse(read_shipped("space", "spaces", source))

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> "Space":
        """Raises UsageError with one line that names what cannot be."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            given = "" if first["type"] in {"value_error", "missing"} else f" = {first['input']!r}"
            raise UsageError(f"space {tree.get('name')}: {f'{where}{given}: ' if where else ''}{message}") from None
        except UsageError as error:
            raise UsageError(f"space {tree.get('name')}: {error}") from None

    def stages(self) -> Iterator[tuple[Literal["pretrain", "finetune"], Stage]]:
        """In the order they are run."""
        if self.pretrain:
            yield "pretrain", self.pretrain
        if self.finetune:
            yield "finetune", self.finetune

    @property
    def search(self) -> dict[str, Parameter]:
        found = {name: parameter for _, stage in self.stages() for name, parameter in stage.search.items()}
        named = next((tuple(stage.variants) for _, stage in self.stages() if stage.variants), ())
        return {VARIANT: Parameter(categorical=named), **found} if named else found

    @property
    def inits(self) -> set[str]:
        """What trials' first stages begin from, as work/NAME; none: random weights."""
        _, first = next(self.stages())
        begun = Experiment.load(first.recipe).override({**first.fixed, **first.short})
        variants = [begun.override(variant) for variant in first.variants.values()] or [begun]
        return {str(each.init) for each in variants if each.init}

    @property
    def mlflow_experiment(self) -> str:
        """One for all of a sweep: of the data set that the last stage learns from, as long as that is not searched."""
        *_, (_, last) = self.stages()
        return f"{Experiment.load(last.recipe).override({**last.fixed, **last.short}).dataset}/sweeps"

    def changed(self, recipes: Mapping[str, str | None], fixed: Mapping[str, Any], **more: Any) -> "Space":
        """With other recipes and with settings fixed in every stage. Raises UsageError."""
        tree = self.model_dump(mode="json", by_alias=True) | {
            key: value for key, value in more.items() if value is not None
        }
        for kind, _ in self.stages():
            tree[kind]["recipe"] = recipes.get(kind) or tree[kind]["recipe"]
            tree[kind]["fixed"] |= fixed
            tree[kind]["short"] = {name: value for name, value in tree[kind]["short"].items() if name not in fixed}
        return Space.parse(tree)

    def violations(self, values: Values) -> dict[str, float]:
        """Of each constraint: above 0 where it does not hold."""
        found = {}
        for constraint in self.constraints:
            left, operator, right = _sides(constraint, self.search)
            difference = _number(left, values) - _number(right, values)
            found[constraint] = 1e-9 if operator == "<" and difference == 0 else difference
        return found

    def experiments(self, values: Values) -> list[Experiment]:
        """The stages with these values, not named yet. Raises UsageError where an experiment cannot have them."""
        return self._with(values, short=True)

    def best(self, values: Values) -> list[Experiment]:
        """The same at full length: without what makes a trial short."""
        return self._with(values, short=False)

    def _with(self, values: Values, short: bool) -> list[Experiment]:
        return [
            Experiment.load(stage.recipe).override(
                stage.fixed
                | (stage.short if short else {})
                | (stage.variants[values[VARIANT]] if stage.variants else {})
                | {name: plain(values[name]) for name in stage.search}
            )
            for _, stage in self.stages()
        ]


def space_names() -> list[str]:
    return shipped_names("spaces")


def content_hash(experiment: Experiment) -> str:
    """Of everything but the name."""
    return sha256(experiment.override({"name": "x"}).to_yaml().encode()).hexdigest()[:8]


def _sides(constraint: str, search: Mapping[str, Parameter]) -> tuple[str, str, str]:
    found = _CONSTRAINT.match(constraint)
    if not found:
        raise UsageError(f"constraint {constraint!r} is not like mask.visible_ratio < mask.keep_ratio")
    left, operator, right = found.groups()
    for side in (left, right):
        if side in search:
            if any(not isinstance(end, int | float) for end in search[side].ends):
                raise UsageError(f"constraint {constraint!r}: {side} is no number")
        elif side in setting_names() or not re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", side):
            raise UsageError(f"constraint {constraint!r}: {side} is neither searched nor a number")
    return left, operator, right


def _number(side: str, values: Values) -> float:
    return float(plain(values[side]) if side in values else side)


def plain(value: Any) -> Any:
    """As a person would write it."""
    return round(value, _DIGITS) if isinstance(value, float) else value
