"""What makes the pods of a job. Which one it is, pytorchjob.py and trainjob.py alone know."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from kubernetes import client as k8s

from orchestration.job import State
from orchestration.settings import PlatformSettings

CALL_S = 30.0  # that a question has


class Shape(NamedTuple):
    """Of a job: the least and the most pods that it works with, the processes of each, whether ranks may be in any."""

    least: int
    most: int
    processes: int
    elastic: bool


class Team(NamedTuple):
    """The pods that a job has now, the first one first, and whether others were there before."""

    pods: Sequence[Any]
    replaced: bool


class Operator(ABC):
    """``job`` is always as the API server has it, pods are the Kubernetes client's."""

    setting: ClassVar[str]  # as EVEREST_OPERATOR names it
    named: ClassVar[str]  # to people
    image: ClassVar[str]  # what its own image's name ends with, a pattern
    kind: ClassVar[str]
    group: ClassVar[str]
    version: ClassVar[str]
    plurals: ClassVar[Mapping[str, str]]  # of the kinds that a job is made of, in that group and version
    container: ClassVar[str]  # the name of a pod's, that it looks for
    propagation: ClassVar[str]  # how jobs are deleted
    of_job: ClassVar[str]  # the label of pods with the job's name

    def where(self, namespace: str, kind: str = "") -> tuple[str, str, str, str]:
        """Jobs, or what is of another kind, as the custom objects' API asks for it."""
        return self.group, self.version, namespace, self.plurals[kind or self.kind]

    def state_of(self, job: Any) -> State:
        return "cancelling" if job["metadata"].get("deletionTimestamp") else self.state_left(job)

    @abstractmethod
    def refuse(self, settings: PlatformSettings) -> None:
        """Raises UsageError for what its jobs cannot be."""

    @abstractmethod
    def objects(
        self, metadata: k8s.V1ObjectMeta, template: k8s.V1PodTemplateSpec, settings: PlatformSettings
    ) -> Sequence[Any]:
        """What it makes pods of, in the order in which it is to be made: the job last."""

    @abstractmethod
    def environment(self, settings: PlatformSettings) -> Mapping[str, str]:
        """Where the processes of a single pod meet, as far as it does not tell them; several pods agree themselves."""

    @abstractmethod
    def fields(self) -> Mapping[str, str]:
        """More variables of a pod, and the fields of it that they come from."""

    @abstractmethod
    def state_left(self, job: Any) -> State:
        """Of a job that nobody has cancelled."""

    @abstractmethod
    def said(self, job: Any) -> str:
        """Its last message of the job."""

    @abstractmethod
    def taken_up(self, job: Any) -> bool:
        """Whether it has seen the job."""

    @abstractmethod
    def had_pods(self, job: Any) -> bool: ...

    @abstractmethod
    def started(self, job: Any, pods: Sequence[Any]) -> datetime | None:
        """``pods``: all that are there."""

    @abstractmethod
    def ended(self, job: Any) -> datetime | None: ...

    @abstractmethod
    def outlived(self, job: Any, now: datetime) -> bool:
        """Whether the job ended long ago, and nobody removes it by itself."""

    @abstractmethod
    def shape(self, job: Any) -> Shape: ...

    @abstractmethod
    def place(self, name: str, index: int) -> str:
        """What a job's pod of that number is called, or begins with."""

    @abstractmethod
    def pod(self, core: k8s.CoreV1Api, namespace: str, place: str) -> Any:
        """The one that is there now. Raises ApiException, with 404 where none is."""

    @abstractmethod
    def team(self, job: Any, pods: Sequence[Any]) -> Team:
        """``pods``: all that are there."""

    @abstractmethod
    def told_of(self, name: str) -> re.Pattern[str]:
        """Names of the objects whose events are the job's."""

    @abstractmethod
    def keep_away(self, api: k8s.CustomObjectsApi, job: Any, node: str) -> None:
        """From now on, the job's next pods."""


def true_conditions(job: Any) -> Sequence[Any]:
    """Of a job, or of whatever else has conditions."""
    return [each for each in conditions(job) if each["status"] == "True"]


def conditions(job: Any) -> Sequence[Any]:
    return job.get("status", {}).get("conditions") or []


def time_of(job: Any, *kinds: str) -> datetime | None:
    """When it last became so."""
    for each in conditions(job):
        if each["type"] in kinds and each["status"] == "True":
            return datetime.fromisoformat(each["lastTransitionTime"])
    return None
