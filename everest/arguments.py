"""Settings of an experiment as words of a command line."""

from collections.abc import Sequence
from typing import Any

import yaml

from everest.errors import UsageError


def overrides(rest: Sequence[str]) -> dict[str, Any]:
    """``--a.b value`` or ``--a.b=value`` -> name and value; ``[0.9, 0.95]`` is a list, ``null`` no value."""
    found: dict[str, Any] = {}
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}; settings are given as --dotted.name value")
        name, equals, value = word[2:].partition("=")
        text = value if equals else next(words, None)
        if text is None:
            raise UsageError(f"--{name} needs a value")
        found[name] = None if text.lower() in {"null", "none"} else text
        if text.startswith("["):
            try:
                found[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise UsageError(f"--{name} {text}: not a list like [0.9, 0.95]") from None
    return found


def nothing_left(rest: Sequence[str]) -> None:
    """Raises UsageError for what a command does not take."""
    if rest:
        raise UsageError(f"unknown argument {rest[0]!r}")
