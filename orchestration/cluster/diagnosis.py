"""Why a job does not start, or how its pods ended, in a sentence: from pods, events and what the nodes have. Pure."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from orchestration.cluster.operator import Operator, Shape
from orchestration.job import UNFIT

_MOUNTING = _TAKEN_UP = timedelta(seconds=20)
_MEMORY = "OOMKilled"
_SIZES = ("cpu", "memory")
_EVICTED = {"Evicted", "Preempting", "TaintManagerEviction", "NodeLost", "DeletionByTaintManager", "PodGC"}
#: As the operator of PyTorchJobs tells of a container that ended, whose pod it removes.
_ENDED = re.compile(r"Error pod (?P<pod>\S+) container \S+ exitCode: (?P<code>-?\d+)")
NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}


class Diagnosis(NamedTuple):
    reason: str
    hopeless: bool  # nothing will change unless a person changes something


class Ending(NamedTuple):
    """Of a pod that did not end well."""

    reason: str
    exit_code: int | None
    outside: bool  # something else than the run itself ended it


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


def not_taken_up(operator: Operator, job: Any, pods: Sequence[Any], now: datetime) -> Diagnosis | None:
    """Whether its operator seems not to look after a pending job; ``job`` is as the API server has it."""
    waited = now - datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    if waited < _TAKEN_UP or pods or operator.had_pods(job):
        return None
    if operator.taken_up(job):
        return Diagnosis(
            f"no pods were made for it in {waited.total_seconds():.0f} s; the log of {operator.named} says why", False
        )
    return Diagnosis(
        f"nobody has taken it up in {waited.total_seconds():.0f} s: does {operator.named} run, and look after "
        f"{job['metadata']['namespace']}? (everest doctor)",
        False,
    )


class Crew(NamedTuple):
    """Pods of a job: those that run or are done, the least and the most that it works with."""

    running: int
    least: int
    most: int

    @property
    def lack(self) -> str:
        """A sentence where there are fewer than it could do with."""
        if self.running < self.least:
            return f"waits for pods: {self.running} of {'at least ' * (self.least < self.most)}{self.least} run"
        return f"{self.running} of {self.most} pods run" if self.running < self.most else ""


def crew(shape: Shape, pods: Iterable[Any]) -> Crew:
    there = [each for each in pods if each.status.phase in {"Running", "Succeeded"}]
    return Crew(len([each for each in there if not each.metadata.deletion_timestamp]), shape.least, shape.most)


def ending(pods: Iterable[Any], events: Iterable[Any]) -> Ending | None:
    """How the first pod that failed did, or else, where that one is gone, the last of which the events tell."""
    for pod in pods:
        if found := _end_of(pod):
            return found
    told = sorted(events, key=lambda event: event.last_timestamp or event.event_time)
    for event in reversed(told):
        if event.reason in _EVICTED and event.involved_object.kind == "Pod":
            return _evicted(event.involved_object.name, event.message)
        if said := _ENDED.match(event.message or ""):
            return _ended(said["pod"], int(said["code"]), event.reason, event.count or 1)
    return None


def _end_of(pod: Any) -> Ending | None:
    if pod.status.reason in _EVICTED:
        return _evicted(pod.metadata.name, pod.status.message)
    for status in pod.status.container_statuses or []:
        for state in (status.state, status.last_state):
            if state and state.terminated and state.terminated.exit_code:
                return _ended(pod.metadata.name, state.terminated.exit_code, state.terminated.reason, 1)
    return None


def _evicted(pod: str, message: str | None) -> Ending:
    return Ending(f"{pod} was evicted: {' '.join((message or 'its node wanted the room').split())}", None, True)


def _ended(pod: str, code: int, reason: str, times: int) -> Ending:
    often = f", {times} times" if times > 1 else ""
    if reason == _MEMORY:
        return Ending(f"{pod} was OOMKilled{often}: it needs more memory than it has (EVEREST_MEMORY)", code, True)
    if code == UNFIT:
        return Ending(f"{pod} was on a node that failed the check before the first step{often}", code, True)
    return Ending(f"{pod} ended with exit code {code} ({reason}){often}", code, code >= 128)


def _not_scheduled(pod: Any, capacity: Capacity | None, gpu: str) -> Diagnosis | None:
    condition = next((each for each in pod.status.conditions or [] if each.type == "PodScheduled"), None)
    if pod.status.phase != "Pending" or condition is None or condition.status == "True":
        return None
    message = condition.message or condition.reason or "not scheduled"
    message = re.split(" (?:preemption:|no new claims)", message)[0].rstrip("., ")
    requests = pod.spec.containers[0].resources.requests or {}
    asked = int(requests.get(gpu, 0))
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
    asks = [f"{requests[name]} {name} (EVEREST_{name.upper()})" for name in _SIZES if f"Insufficient {name}" in message]
    said = f"; it asks for {' and '.join(asks)}" if asks else ""
    return Diagnosis(f"no node takes the pod: {message}{said}", False)


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
