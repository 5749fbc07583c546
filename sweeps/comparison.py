"""Methods compared at equal budgets: a sweep whose trials are every method with every seed."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from everest.config import Experiment
from everest.errors import UsageError
from sweeps.shipped import read_shipped, shipped_names
from sweeps.space import Parameter, Part, Space, Stage

Kind = Literal["pretrain", "finetune"]

#: Of training with a clip, by stage and method: FLOPs, or seconds.
Costs = Mapping[tuple[Kind, str], float]

#: Clips a second with everything that training waits for, and the steps of a run that measures it.
PACE, _PACE_STEPS = "perf/clips_per_s", 60


class Runs(Part):
    """A stage of every method."""

    recipe: str
    fixed: dict[str, Any] = Field({}, description="settings of all methods")
    methods: dict[str, dict[str, Any]] = Field({}, description="settings of each, where they differ in this stage")


class Comparison(Part):
    """A comparison's file, whole."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")
    pretrain: Runs | None = None
    finetune: Runs | None = None
    methods: tuple[str, ...] = Field(min_length=2, description="the first is what the others are compared with")
    seeds: int = Field(5, ge=2)
    equal: Literal["flops", "steps", "seconds"] = "flops"
    measures: tuple[str, ...] = Field(
        ("test/top1",),
        min_length=1,
        description="metrics of any stage's run, the higher the better; the first of the last stage's",
    )
    curve: str | None = Field(None, description="metric that a stage notes along the way, drawn against operations")

    @model_validator(mode="after")
    def _methods_are_known(self) -> Self:
        stages = self.stages()
        if not stages:
            raise ValueError("needs a stage: pretrain, finetune or both")
        for kind, runs in stages.items():
            if unknown := runs.methods.keys() - {*self.methods}:
                raise ValueError(f"{kind}.methods has {min(unknown)!r}, which is not among methods")
        for method in self.methods:
            for kind, runs in stages.items():
                begun = Experiment.load(runs.recipe)
                if begun.stage != kind:
                    raise ValueError(f"{kind}.recipe = {runs.recipe!r} is a recipe for {begun.stage}")
                begun.override(runs.fixed | runs.methods.get(method, {}))
        return self

    @classmethod
    def load(cls, source: str) -> "Comparison":
        """The shipped one of that name, or the YAML file at that path. Raises UsageError with one line."""
        return cls.parse(read_shipped("comparison", "comparisons", source))

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> "Comparison":
        """Raises UsageError with one line that names what cannot be."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise UsageError(f"comparison {tree.get('name')}: {f'{where}: ' if where else ''}{message}") from None
        except UsageError as error:
            raise UsageError(f"comparison {tree.get('name')}: {error}") from None

    def stages(self) -> dict[Kind, Runs]:
        """In the order they are run."""
        found: dict[Kind, Runs] = {}
        if self.pretrain:
            found["pretrain"] = self.pretrain
        if self.finetune:
            found["finetune"] = self.finetune
        return found

    def experiment(self, kind: Kind, method: str) -> Experiment:
        """One run of a method, before budgets are made equal."""
        runs = self.stages()[kind]
        return Experiment.load(runs.recipe).override(runs.fixed | runs.methods.get(method, {}))

    def space(self, costs: Costs, videos: int) -> Space:
        """The sweep that does it, a grid. ``costs``: what is to be equal, of a clip. ``videos``: to train on."""
        stages = {
            kind: self._stage(
                kind, {method: {"optim.steps": self.steps(kind, method, costs, videos)} for method in self.methods}
            )
            for kind in self.stages()
        }
        return self._grid(self.name, stages, self.measures[0])

    def pace_space(self, kind: Kind) -> Space:
        """The sweep of short runs that tells how many clips a second each method takes in one stage."""
        short = {"optim.steps": _PACE_STEPS, "optim.warmup_epochs": 0} | ({"init": None} if kind == "finetune" else {})
        stage = self._stage(kind, dict.fromkeys(self.methods, short))
        return self._grid(f"{self.name}-pace-{kind}", {kind: stage}, PACE)

    def _stage(self, kind: Kind, more: Mapping[str, Mapping[str, Any]]) -> Stage:
        """``more``: settings by method."""
        runs = self.stages()[kind]
        return Stage(
            recipe=runs.recipe,
            fixed=runs.fixed,
            variants={method: {**runs.methods.get(method, {}), **more[method]} for method in self.methods},
            search={"seed": Parameter(categorical=tuple(range(self.seeds)))},
        )

    def _grid(self, name: str, stages: Mapping[Kind, Stage], objective: str) -> Space:
        return Space(
            name=name,
            pretrain=stages.get("pretrain"),
            finetune=stages.get("finetune"),
            objectives={objective: "max"},
            sampler="grid",
            pruner="none",
        )

    def steps(self, kind: Kind, method: str, costs: Costs, videos: int) -> int:
        """As many as cost what the first method's cost, or as many as the first has."""
        first = self.experiment(kind, self.methods[0])
        epoch = max(1, videos // (first.optim.batch_size // first.data.repeats))
        steps = first.optim.steps or first.optim.epochs * epoch
        if self.equal == "steps":
            return steps
        own = self.experiment(kind, method).optim.batch_size * costs[kind, method]
        return max(1, round(steps * first.optim.batch_size * costs[kind, self.methods[0]] / own))


def comparison_names() -> list[str]:
    return shipped_names("comparisons")
