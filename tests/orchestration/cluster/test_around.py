"""What many jobs are looked at by, with an API server that counts what it is asked."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from orchestration.cluster.around import Around
from orchestration.cluster.pytorchjob import PyTorchJobs
from orchestration.settings import PlatformSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [f"mine-{number}" for number in range(100)]


def pod(job: str, worker: int) -> k8s.V1Pod:
    labels = {PyTorchJobs.of_job: job}
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(name=f"{job}-worker-{worker}", labels=labels))


def event(name: str, ago_s: int) -> Any:
    said = SimpleNamespace(name=name)
    return SimpleNamespace(involved_object=said, last_timestamp=NOW - timedelta(seconds=ago_s), event_time=None)


class Server:
    def __init__(self, sees_nodes: bool = True) -> None:
        self.asked: Counter[str] = Counter()
        self.sees_nodes = sees_nodes

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        assert (namespace, label_selector) == ("lab", "ours")
        self.asked["pods"] += 1
        bare = k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="a-sweeps-controller"))
        return SimpleNamespace(items=[bare, *(pod(name, worker) for worker in range(2) for name in NAMES)])

    def list_namespaced_event(self, namespace: str) -> Any:
        self.asked["events"] += 1
        return SimpleNamespace(items=[event(f"{name}-worker-0", ago) for name in NAMES for ago in (1, 99)])

    def list_node(self) -> Any:
        self.asked["nodes"] += 1
        if not self.sees_nodes:
            raise ApiException(403)
        status = k8s.V1NodeStatus(allocatable={"nvidia.com/gpu": "8"})
        return SimpleNamespace(items=[k8s.V1Node(metadata=k8s.V1ObjectMeta(name="node-3"), status=status)])

    def list_pod_for_all_namespaces(self, field_selector: str) -> Any:
        self.asked["all pods"] += 1
        return SimpleNamespace(items=[])


def around(server: Any) -> Around:
    return Around(server, PlatformSettings(namespace="lab"), "ours")


def test_of_a_hundred_jobs_each_gets_its_own_and_the_server_is_asked_once() -> None:
    server = Server()
    there, operator = around(server), PyTorchJobs()
    for name in NAMES:
        assert [each.metadata.name for each in there.pods(operator, name)] == [f"{name}-worker-0", f"{name}-worker-1"]
        (told,) = there.events(re.compile(f"{name}-worker-0"), NOW - timedelta(seconds=9))
        assert told.involved_object.name == f"{name}-worker-0"
        assert there.capacity == (8, 8)
    assert server.asked == {"pods": 1, "events": 1, "nodes": 1, "all pods": 1}


def test_who_may_not_see_the_nodes_asks_once() -> None:
    server = Server(sees_nodes=False)
    there = around(server)
    assert [there.capacity for _ in range(3)] == [None] * 3
    assert server.asked == {"nodes": 1}
