"""What makes two experiments the same run."""

from everest.config import Experiment
from everest.errors import UsageError

#: Settings that may differ when a run is continued: they change neither weights nor their order.
_FREE = (
    "recipe",
    "data.workers",
    "data.changed",
    "data.max_bad",
    "data.time_limit",
    "optim.recompute",
    "keep.",
    "evaluate.",
    "probe.",
)


def same_experiment(begun: Experiment, config: Experiment, where: str) -> None:
    """Raises UsageError with the difference."""
    before, now = begun.flat(), config.flat()
    changed = [f"{n} {before[n]} -> {now[n]}" for n in now if now[n] != before[n] and not n.startswith(_FREE)]
    if changed:
        raise UsageError(f"{where} was begun with other settings ({'; '.join(changed)}); choose another --name")
