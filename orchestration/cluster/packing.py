"""Packing a set in parts, as an indexed Job of the cluster."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from kubernetes import client as k8s

from everest.errors import EverestError, UsageError
from orchestration.cluster.launcher import KubernetesLauncher
from orchestration.cluster.manifest import LABELS
from orchestration.cluster.pods import (
    UNCOUNTED,
    WRITABLE,
    container,
    data_volume,
    final,
    pod_template,
    scratch_volumes,
    to_tree,
)
from orchestration.cluster.reach import require_reachable
from orchestration.settings import PlatformSettings

_ATTEMPTS = 3  # of a part, beside the first
_LOOK_EVERY_S = 2.0


def packing_job(name: str, parts: int, arguments: Sequence[str], settings: PlatformSettings) -> dict[str, Any]:
    """The Job whose pods each do one part of ``everest data pack ARGUMENTS``. Pure. Raises UsageError."""
    here, settings = settings, settings.for_pods()
    if not settings.data and not all(word.startswith("s3://") for word in arguments[:2]):
        raise UsageError(
            f"{' '.join(arguments[:2])}: pods find neither; give addresses as s3://BUCKET/PREFIX, or say with "
            "EVEREST_DATA (--data) which volume holds them"
        )
    volumes, mounts = scratch_volumes()
    if data := data_volume(settings, writable=True):
        volumes.append(data[0])
        mounts.append(data[1])
    resources = {"cpu": settings.cpu, "memory": settings.memory}
    made = container(
        settings,
        command=["python", "-m", "orchestration.pod.pack", str(parts), *arguments],
        env=[k8s.V1EnvVar(name=key, value=value) for key, value in _environment(settings).items()],
        secrets=(settings.s3_secret,),
        resources=k8s.V1ResourceRequirements(requests=resources, limits={"memory": settings.memory}),
        mounts=mounts,
    )
    labels = {
        "app.kubernetes.io/name": "everest",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "pack",
        **LABELS,
    }
    template = pod_template(settings, made, volumes, labels, {}, settings.service_account, restart="Never")
    if any(word.startswith("s3://") for word in arguments):
        require_reachable(here, to_tree(template.spec), "s3_endpoint")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": settings.namespace, "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": parts,
            "parallelism": parts,
            "backoffLimitPerIndex": _ATTEMPTS,
            "ttlSecondsAfterFinished": settings.ttl_s,
            "podFailurePolicy": {"rules": [UNCOUNTED, final([1, 2])]},
            "template": to_tree(template),
        },
    }


def watch(launcher: KubernetesLauncher, name: str) -> None:
    """Says how far it is until it ends. Raises EverestError where it fails."""
    said = ""
    while True:
        parts = launcher.batch.parts(name)
        if parts.failed:
            raise EverestError(f"{name} failed: {parts.failed}; what is packed stays, and the same command goes on")
        if parts.done == parts.of:
            return
        line = f"{name}: {parts.done} of {parts.of} parts are done, {parts.running} at work"
        if line != said:
            print(line, file=sys.stderr, flush=True)
            said = line
        time.sleep(_LOOK_EVERY_S)


def _environment(settings: PlatformSettings) -> dict[str, str]:
    names = ("s3_endpoint", "s3_bucket", "s3_region", "patience_s", "cache", "cache_size")
    values = {f"EVEREST_{name.upper()}": getattr(settings, name) for name in names}
    return {**{name: str(value) for name, value in values.items() if value is not None}, **WRITABLE}
