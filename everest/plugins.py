"""What other packages add without being imported here, by entry points: trackers, models, commands."""

from importlib.metadata import entry_points
from typing import Any

from everest.errors import UsageError


def load_plugin(group: str, name: str) -> Any:
    """The object another package registered. Raises UsageError where none did."""
    found = entry_points(group=f"everest.{group}")
    if name not in found.names:
        known = ", ".join(sorted(found.names))
        raise UsageError(f"no {group.removesuffix('s')} {name!r} is installed; there are: {known}")
    return found[name].load()
