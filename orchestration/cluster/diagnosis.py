"""Why a job does not start, in a sentence: from its pods, its events and what the nodes have. Pure."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

_MOUNTING = timedelta(seconds=20)
NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}


class Diagnosis(NamedTuple):
    reason: str
    hopeless: bool  # nothing will change unless a person changes something


class Capacity(NamedTuple):
    """GPUs of the nodes: the most that one node has, and the most that are free on one."""

    most: int
    free: int


def diagnose(
    pods: Iterable[Any], events: Iterable[Any], capacity: Capacity | None, now: datetime, gpu: str
) -> Diagnosis | None:
    """The first hindrance found; None where there is none. ``pods`` and ``events`` are the Kubernetes client's.

    ``gpu`` is the resource that is a GPU in this cluster.
    """
    events = list(events)
    for pod in pods:
        found = _not_scheduled(pod, capacity, gpu) or _not_started(pod) or _not_mounted(pod, events, now)
        if found:
            return found
    return _not_created(events)


def _not_scheduled(pod: Any, capacity: Capacity | None, gpu: str) -> Diagnosis | None:
    condition = next((each for each in pod.status.conditions or [] if each.type == "PodScheduled"), None)
    if pod.status.phase != "Pending" or condition is None or condition.status == "True":
        return None
    message = (condition.message or condition.reason or "not scheduled").split(" preemption:")[0].rstrip(". ")
    asked = int((pod.spec.containers[0].resources.requests or {}).get(gpu, 0))
    if f"Insufficient {gpu}" in message and asked:
        if capacity and asked > capacity.most > 0:  # none at all: perhaps more nodes are on their way
            return Diagnosis(
                f"not enough {gpu}: {asked} asked, but no node has more than {capacity.most} (EVEREST_GPUS)", True
            )
        free = f", {capacity.free} free on the emptiest node" if capacity else ""
        return Diagnosis(f"not enough {gpu}: {asked} asked{free}; it starts when others end", False)
    if claim := re.search(r'persistentvolumeclaim "(.+?)" not found', message):
        return Diagnosis(f"the volume claim {claim[1]} does not exist in {pod.metadata.namespace} (EVEREST_DATA)", True)
    if "untolerated taint" in message:
        return Diagnosis(
            f"no node takes the pod: {message}; a toleration goes into a pod patch (EVEREST_POD_PATCH)", False
        )
    return Diagnosis(f"no node takes the pod: {message}", False)


def _not_started(pod: Any) -> Diagnosis | None:
    for status in (pod.status.init_container_statuses or []) + (pod.status.container_statuses or []):
        waiting = status.state.waiting
        if waiting is None or waiting.reason in {"ContainerCreating", "PodInitializing", None}:
            continue
        message = " ".join((waiting.message or waiting.reason).split())
        if waiting.reason in NO_IMAGE:
            return Diagnosis(
                f"the image {status.image} cannot be pulled: {message} (EVEREST_IMAGE, EVEREST_PULL_SECRET)", True
            )
        if secret := re.search(r'secret "(.+?)" not found', message):
            return Diagnosis(f"the Secret {secret[1]} does not exist in {pod.metadata.namespace}", True)
        return Diagnosis(f"{pod.metadata.name}: {waiting.reason}: {message}", waiting.reason.endswith("Error"))
    return None


def _not_mounted(pod: Any, events: list[Any], now: datetime) -> Diagnosis | None:
    """Volumes are tried again and again, and often not ready at first."""
    if pod.status.phase != "Pending" or now - pod.metadata.creation_timestamp < _MOUNTING:
        return None
    for event in reversed(events):
        if event.reason in {"FailedMount", "FailedAttachVolume"} and event.involved_object.name == pod.metadata.name:
            return Diagnosis(f"a volume cannot be mounted: {' '.join(event.message.split())}", False)
    return None


def _not_created(events: list[Any]) -> Diagnosis | None:
    """A quota, a policy or a missing service account: the operator could not even create the pods."""
    for event in reversed(events):
        if event.reason != "FailedCreatePod":
            continue
        message = " ".join(event.message.split()).removeprefix("Error creating: ")
        if "exceeded quota" in message:
            return Diagnosis(f"over the quota: {message.partition('exceeded quota: ')[2]}", False)
        return Diagnosis(f"its pods may not be created: {message}", True)
    return None
