"""How many pods of a job may work together: as many as share a step's micro-batches evenly."""

import os
from collections.abc import Sequence

from everest.config import Experiment
from everest.errors import UsageError
from orchestration.settings import PlatformSettings, variable


def team_sizes(settings: PlatformSettings, experiment: Experiment) -> Sequence[int]:
    """Of the numbers that the settings allow, the smallest first. Raises UsageError where one of the ends cannot."""
    parts, each = experiment.optim.micro_batches, settings.processes_per_pod
    able = [pods for pods in range(1, parts // each + 1) if parts % (pods * each) == 0]
    if {settings.pods[0], settings.pods[-1]} <= set(able):
        return [pods for pods in able if pods in settings.pods]
    raise UsageError(
        f"{variable('nodes')} = {settings.nodes!r}: the {parts} micro-batches of a step (optim.batch_size / "
        f"optim.micro_batch) are shared evenly by {' or '.join(map(str, able)) or 'no number of'} pods of {each} "
        f"process{'es' * (each > 1)}"
    )


def is_elastic() -> bool:
    """Whether this pod's job may have more pods or fewer, before settings are read."""
    return not os.environ.get("EVEREST_NODES", "1").isdigit()
