"""The best trial's experiments at full length, as recipes."""

from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from everest.errors import UsageError
from everest.files import write_text
from sweeps.study import Study


def choose(study: Study, number: int | None) -> FrozenTrial:
    """The best trial or the one asked for. Raises UsageError, also where several are best in their own way."""
    complete = {trial.number: trial for trial in study.trials(TrialState.COMPLETE)}
    if not complete:
        raise UsageError(f"sweep {study.name} has no complete trial yet")
    if number is not None:
        if number not in complete:
            raise UsageError(f"--trial {number}: no complete trial of {study.name}")
        return complete[number]
    best = study.best()
    if len(study.space.objectives) > 1:
        lines = [f"\n  --trial {trial.number:<4} {describe(study, trial)}" for trial in best]
        raise UsageError(f"{study.name} has several objectives; choose one of its best:{''.join(lines)}")
    return best[0]


def write_recipes(study: Study, trial: FrozenTrial, out: Path) -> list[Path]:
    """``out`` and, before it in the order they are to be run, ``…-pretrain.yaml`` where there is such a stage.

    Raises UsageError where ``out`` is no name for a recipe.
    """
    if out.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"--out {out}: a recipe's name ends in .yaml")
    *before, last = study.space.best(trial.params)
    origin = f"# {study.name}, trial {trial.number}: {describe(study, trial)}\n"
    made_from = f"{study.name}, trial {trial.number}"
    recipes = {out: last.override({"name": out.stem, "recipe": made_from})}
    for stage in before:
        name = f"{out.stem}-pretrain"
        recipes[out] = recipes[out].override({"init": f"work/{name}"})
        recipes = {out.with_name(f"{name}{out.suffix}"): stage.override({"name": name, "recipe": made_from}), **recipes}
    for file, recipe in recipes.items():
        write_text(file, origin + recipe.to_yaml())
    return list(recipes)


def describe(study: Study, trial: FrozenTrial) -> str:
    """val/top1 0.87, mask.keep_ratio 0.3"""
    results = zip(study.space.objectives, trial.values, strict=True)
    parts = [f"{name} {value:.4g}" for name, value in results]
    parts += [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.params.items()
    ]
    return ", ".join(parts)
