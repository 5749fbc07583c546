"""A node without a machine: what its kubelet would say of pods is said by a thread of the test."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client as k8s
from kubernetes import config
from kubernetes.client.exceptions import ApiException

TAINT = "everest.test/pretended"
RUNS: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


class PretendedNode:
    """Of 8 GPUs. ``says`` gives the state of a new pod's container; the first node that pods of ``patch`` choose."""

    def __init__(self, name: str, says: Callable[[Any], dict[str, Any]]) -> None:
        self.name, self._says = name, says
        self.seen: list[str] = []  # pods that came here
        self._dead = threading.Event()
        config.load_kube_config()
        self._core = k8s.CoreV1Api()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def die(self) -> None:
        """It says nothing any more."""
        self._dead.set()
        self._thread.join()

    @contextmanager
    def there(self) -> Iterator["PretendedNode"]:
        size = {"cpu": "8", "memory": "64Gi", "pods": "50", "nvidia.com/gpu": "8", "ephemeral-storage": "100Gi"}
        self._core.create_node(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": self.name, "labels": {TAINT: "yes", "kubernetes.io/hostname": self.name}},
                "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]},
            }
        )
        try:
            self._beat({"capacity": size, "allocatable": size})
            self._thread.start()
            yield self
        finally:
            self.die()
            self._core.delete_node(self.name)

    def _work(self) -> None:
        beat = 0.0
        while not self._dead.wait(0.2):
            if time.monotonic() - beat > 5:
                self._beat({})
                beat = time.monotonic()
            for pod in self._core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={self.name}").items:
                with suppress(ApiException):  # it may be gone
                    self._answer(pod)

    def _answer(self, pod: Any) -> None:
        name, namespace = pod.metadata.name, pod.metadata.namespace
        if pod.metadata.deletion_timestamp:
            options = k8s.V1DeleteOptions(grace_period_seconds=0)
            self._core.delete_namespaced_pod(name, namespace, body=options)
        elif pod.status.phase == "Pending":
            self.seen.append(pod.metadata.uid)
            state = self._says(pod)
            runs = "running" in state
            container = {
                "name": pod.spec.containers[0].name, "image": "", "imageID": "", "ready": runs, "restartCount": 0,
                "state": state,
            }  # fmt: skip
            status = {
                "phase": "Running" if runs else "Failed",
                "conditions": [{"type": "Ready", "status": str(runs)}],
                "containerStatuses": [container],
            }
            self._core.patch_namespaced_pod_status(name, namespace, {"status": status})

    def _beat(self, more: dict[str, Any]) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Pretended", "message": "", "lastHeartbeatTime": now}
        self._core.patch_node_status(self.name, {"status": {"conditions": [ready], **more}})


def preferring(patch: Path, file: Path) -> Path:
    """A pod patch by which pods go to pretended nodes, where they may."""
    found = yaml.safe_load(patch.read_text())
    liked = {"weight": 100, "preference": {"matchExpressions": [{"key": TAINT, "operator": "Exists"}]}}
    found["spec"] |= {
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [liked]}},
        "tolerations": [{"key": TAINT, "operator": "Exists"}],
    }
    file.write_text(yaml.safe_dump(found))
    return file
