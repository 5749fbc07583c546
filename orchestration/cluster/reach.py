"""What pods can do nothing without, as far as it can be known before one starts. Pure: nobody is asked."""

from collections.abc import Mapping
from typing import Any

from everest.errors import UsageError
from orchestration.addresses import is_here
from orchestration.settings import PlatformSettings, variable


def require_named_bucket(settings: PlatformSettings) -> None:
    """Raises UsageError where checkpoints have no place."""
    if not settings.s3_bucket:
        raise UsageError(f"{variable('s3_bucket')} is not set; checkpoints of jobs are kept in S3")


def require_reachable(settings: PlatformSettings, pod: Mapping[str, Any], *names: str) -> None:
    """Raises UsageError for an address (a setting that may have an ``EVEREST_POD_…``) that a pod of this spec cannot
    mean: a file, or the pod itself, unless its patch lets others be there."""
    alone = not pod.get("hostNetwork") and len(pod["containers"]) == 1 and not pod.get("initContainers")
    for name in names:
        there = f"pod_{name}"
        given = there if getattr(settings, there) else name
        address = getattr(settings, given)
        if address is None:
            continue
        forms = ("postgresql://",) if name == "studies" else ("http://", "https://")
        if not address.startswith(forms):
            why = f"in pods it must begin with {' or '.join(forms)}"
        elif alone and is_here(address):
            why = "in a pod that is the pod itself"
        else:
            continue
        raise UsageError(f"{variable(given)} = {address!r}: {why}; {variable(there)} says how pods reach the server")
