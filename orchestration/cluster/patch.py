"""Strategic merge, as ``kubectl patch`` does it: lists of named things are merged by name, other lists replaced."""

from typing import Any

#: What tells entries of a list apart (Kubernetes API, ``patchMergeKey``).
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}


def merge(base: Any, patch: Any, field: str = "") -> Any:
    """``base`` with ``patch`` laid over it; ``null`` in the patch removes, new entries of a list come last."""
    if isinstance(base, dict) and isinstance(patch, dict):
        merged = {key: value for key, value in base.items() if patch.get(key, ...) is not None}
        return merged | {key: merge(base.get(key), value, key) for key, value in patch.items() if value is not None}
    if isinstance(base, list) and isinstance(patch, list) and (key := _KEYS.get(field)):
        entries = {entry.get(key): entry for entry in base}
        for entry in patch:
            entries[entry.get(key)] = merge(entries.get(entry.get(key)), entry)
        return list(entries.values())
    return patch
