"""Files that come with the sweeps, by name, or people's own, by path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everest.errors import UsageError
from everest.tree import read_tree

_HERE = Path(__file__).parent


def shipped_names(folder: str) -> list[str]:
    """Of ``spaces`` or ``comparisons``."""
    return sorted(file.stem for file in (_HERE / folder).glob("*.yaml"))


def read_shipped(kind: str, folder: str, source: str | Path) -> Mapping[str, Any]:
    """The shipped file of that name, or the YAML file at that path, named after it. Raises UsageError with one line."""
    path, known = Path(source), shipped_names(folder)
    if path.suffix in {".yaml", ".yml"}:
        tree = read_tree(path, f"{kind} {path}")
    elif str(source) in known:
        tree = read_tree(_HERE / folder / f"{source}.yaml", f"{kind} {source}")
    else:
        raise UsageError(f"no {kind} {str(source)!r}; there are {', '.join(known)}, a file ends in .yaml")
    return {"name": path.stem, **tree}
