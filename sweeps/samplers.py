"""How a space's trials are drawn and given up."""

import optuna

from sweeps.space import Space


def sampler_of(space: Space, number: int) -> optuna.samplers.BaseSampler:
    """For the trial of that number: what it draws does not depend on who drew the others."""
    seed = space.seed + 1_000_003 * number  # another for each trial
    samplers = optuna.samplers
    match space.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed)
        case "nsga3":
            return samplers.NSGAIIISampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed)
        case "qmc":
            return samplers.QMCSampler(seed=space.seed, scramble=True)
        case _:
            return samplers.RandomSampler(seed=seed)


def pruner_of(space: Space) -> optuna.pruners.BasePruner:
    if space.prune is None:
        return optuna.pruners.NopPruner()
    median = optuna.pruners.MedianPruner(n_startup_trials=space.prune_after)
    match space.pruner:
        case "median":
            return median
        case "hyperband":
            return optuna.pruners.HyperbandPruner()
        case "patient":
            return optuna.pruners.PatientPruner(median, patience=3)
        case _:
            return optuna.pruners.NopPruner()
