"""What the state of jobs shows in besides: their pods, events, places in queues, and the room there is."""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from orchestration.cluster.diagnosis import Capacity
from orchestration.cluster.operator import Operator
from orchestration.cluster.queue import workloads_of
from orchestration.settings import PlatformSettings


class Around:
    """As it is now: each is asked for once, when it is needed, however many jobs there are. Raises ApiException."""

    def __init__(self, core: k8s.CoreV1Api, settings: PlatformSettings, pods: str) -> None:
        """``pods``: a selector of all that may be asked for."""
        self._core, self._namespace, self._selector = core, settings.namespace, pods
        self._gpu = settings.gpu_resource

    def pods(self, operator: Operator, name: str) -> Sequence[Any]:
        """Of a job."""
        return [pod for pod in self._pods if (pod.metadata.labels or {}).get(operator.of_job) == name]

    def events(self, ours: re.Pattern[str], created: datetime) -> Sequence[Any]:
        """Of a job and its pods, and of none that had the name before."""
        return [
            event
            for event in self._events
            if ours.fullmatch(event.involved_object.name) and (event.last_timestamp or event.event_time) >= created
        ]

    @cached_property
    def capacity(self) -> Capacity | None:
        """None where one may not see the nodes."""
        try:
            nodes = self._core.list_node().items
            pods = self._core.list_pod_for_all_namespaces(field_selector="status.phase!=Succeeded,status.phase!=Failed")
        except ApiException as error:
            if error.status == 403:
                return None
            raise
        free = {node.metadata.name: int((node.status.allocatable or {}).get(self._gpu, 0)) for node in nodes}
        most = max(free.values(), default=0)
        for pod in pods.items:
            if pod.spec.node_name in free:
                free[pod.spec.node_name] -= sum(
                    int(((each.resources and each.resources.requests) or {}).get(self._gpu, 0))
                    for each in pod.spec.containers
                )
        return Capacity(most, max(free.values(), default=0))

    @cached_property
    def workloads(self) -> Sequence[Any]:
        """What Kueue has in its queues."""
        return workloads_of(k8s.CustomObjectsApi(self._core.api_client), self._namespace)

    @cached_property
    def _pods(self) -> Sequence[Any]:
        return list(self._core.list_namespaced_pod(self._namespace, label_selector=self._selector).items)

    @cached_property
    def _events(self) -> Sequence[Any]:
        return list(self._core.list_namespaced_event(self._namespace).items)
