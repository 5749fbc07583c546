"""Methods compared at equal budgets: a sweep whose trials are every method with every seed."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from everest.config import Experiment
from everest.errors import UsageError
from sweeps.shipped import read_shipped, shipped_names
from sweeps.space import Parameter, Part, Space, Stage

Kind = Literal["pretrain", "finetune"]


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
    equal: Literal["flops", "steps"] = "flops"
    measure: str = Field("test/top1", description="metric of the last stage's run, the higher the better")

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

    def space(self, step_flops: Mapping[tuple[Kind, str], float], videos: int) -> Space:
        """The sweep that does it, a grid. ``step_flops``: of a clip, by stage and method. ``videos``: to train on."""
        seeds = {"seed": Parameter(categorical=tuple(range(self.seeds)))}
        stages = {
            kind: Stage(
                recipe=runs.recipe,
                fixed=runs.fixed,
                variants={
                    method: runs.methods.get(method, {}) | {"optim.steps": self.steps(kind, method, step_flops, videos)}
                    for method in self.methods
                },
                search=seeds,
            )
            for kind, runs in self.stages().items()
        }
        return Space(
            name=self.name,
            pretrain=stages.get("pretrain"),
            finetune=stages.get("finetune"),
            objectives={self.measure: "max"},
            sampler="grid",
            pruner="none",
        )

    def steps(self, kind: Kind, method: str, step_flops: Mapping[tuple[Kind, str], float], videos: int) -> int:
        """As many as cost what the first method's cost, or as many as the first has."""
        first = self.experiment(kind, self.methods[0])
        epoch = max(1, videos // (first.optim.batch_size // first.data.repeats))
        steps = first.optim.steps or first.optim.epochs * epoch
        if self.equal == "steps":
            return steps
        own = self.experiment(kind, method).optim.batch_size * step_flops[kind, method]
        return max(1, round(steps * first.optim.batch_size * step_flops[kind, self.methods[0]] / own))


def comparison_names() -> list[str]:
    return shipped_names("comparisons")
