"""Trees of settings in YAML files."""

from pathlib import Path
from typing import Any

import yaml

from everest.errors import UsageError


def read_tree(file: Path, what: str) -> dict[str, Any]:
    """What a file such as a recipe holds. Raises UsageError, with ``what`` for its name."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not text in UTF-8") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{what} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UsageError(f"{what} is nested too deeply") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{what} holds {type(tree).__name__}, not a tree of settings")
    return tree
