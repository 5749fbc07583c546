"""Jobs as PyTorchJobs, of Kubeflow's training operator.

All pods are Workers, the first of them with rank 0. There is no Master, because the training operator gives jobs that
have one an init container that the ``restricted`` Pod Security Standard refuses.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from kubeflow.training import (
    KubeflowOrgV1ElasticPolicy,
    KubeflowOrgV1PyTorchJob,
    KubeflowOrgV1PyTorchJobSpec,
    KubeflowOrgV1ReplicaSpec,
    KubeflowOrgV1RunPolicy,
    KubeflowOrgV1SchedulingPolicy,
)
from kubernetes import client as k8s

from orchestration.cluster.avoiding import AVOIDS, avoiding
from orchestration.cluster.operator import CALL_S, Operator, Shape, Team, conditions, time_of, true_conditions
from orchestration.cluster.pods import CONTAINER
from orchestration.job import State
from orchestration.settings import PlatformSettings

_PORT = 23456
_STATES: dict[str, State] = {
    "Created": "pending",
    "Running": "running",
    "Restarting": "restarting",
    "Suspended": "suspended",
    "Succeeded": "succeeded",
    "Failed": "failed",
}
_FIRST_PODS = timedelta(seconds=15)  # after a job's start all its first pods are there


class PyTorchJobs(Operator):
    setting = "pytorchjob"
    named, image = "Kubeflow's training operator", r"training-operator[^:@/]*"
    kind, group, version = "PyTorchJob", "kubeflow.org", "v1"
    plurals: ClassVar[Mapping[str, str]] = {kind: "pytorchjobs"}
    container = CONTAINER
    propagation = "Foreground"  # the job goes last
    of_job = "training.kubeflow.org/job-name"

    def refuse(self, settings: PlatformSettings) -> None:
        """It does all."""

    def objects(
        self, metadata: k8s.V1ObjectMeta, template: k8s.V1PodTemplateSpec, settings: PlatformSettings
    ) -> Sequence[Any]:
        priority = settings.priority_class
        job = KubeflowOrgV1PyTorchJob(
            api_version=f"{self.group}/{self.version}",
            kind=self.kind,
            metadata=metadata,
            spec=KubeflowOrgV1PyTorchJobSpec(
                nproc_per_node=None if settings.elastic else str(settings.processes_per_pod),
                elastic_policy=_elastic(settings),
                run_policy=KubeflowOrgV1RunPolicy(
                    clean_pod_policy="Running",
                    backoff_limit=settings.backoff_limit,
                    ttl_seconds_after_finished=settings.ttl_s,
                    active_deadline_seconds=settings.deadline_s,
                    scheduling_policy=KubeflowOrgV1SchedulingPolicy(priority_class=priority) if priority else None,
                ),
                pytorch_replica_specs={
                    "Worker": KubeflowOrgV1ReplicaSpec(
                        replicas=settings.pods[-1], restart_policy="ExitCode", template=template
                    )
                },
            ),
        )
        return [job]

    def environment(self, settings: PlatformSettings) -> Mapping[str, str]:
        """Of a single pod, and the operator adds of how many processes; several agree where."""
        return {} if settings.several_pods else {"PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(_PORT)}

    def fields(self) -> Mapping[str, str]:
        return {"PET_NODE_RANK": "metadata.labels['training.kubeflow.org/replica-index']"}

    def state_left(self, job: Any) -> State:
        return _STATES[_last(job)["type"]]

    def said(self, job: Any) -> str:
        return str(_last(job)["message"])

    def taken_up(self, job: Any) -> bool:
        return bool(conditions(job))

    def had_pods(self, job: Any) -> bool:
        return any(each["type"] != "Created" for each in conditions(job))

    def started(self, job: Any, pods: Sequence[Any]) -> datetime | None:
        return next(
            (
                datetime.fromisoformat(each["lastTransitionTime"])
                for each in conditions(job)
                if each["type"] == "Running"
            ),
            None,
        )

    def ended(self, job: Any) -> datetime | None:
        return time_of(job, "Succeeded", "Failed")

    def outlived(self, job: Any, now: datetime) -> bool:
        """The operator does."""
        return False

    def shape(self, job: Any) -> Shape:
        spec = job["spec"]
        most, elastic = spec["pytorchReplicaSpecs"]["Worker"]["replicas"], spec.get("elasticPolicy")
        if elastic:
            return Shape(elastic.get("minReplicas", most), most, int(elastic["nProcPerNode"]), True)
        return Shape(most, most, int(spec["nprocPerNode"]), False)

    def place(self, name: str, index: int) -> str:
        return f"{name}-worker-{index}"

    def pod(self, core: k8s.CoreV1Api, namespace: str, place: str) -> Any:
        return core.read_namespaced_pod(place, namespace, _request_timeout=CALL_S)

    def team(self, job: Any, pods: Sequence[Any]) -> Team:
        status = job.get("status", {})
        begun = datetime.fromisoformat(status.get("startTime") or job["metadata"]["creationTimestamp"])
        late = any(pod.metadata.creation_timestamp - begun > _FIRST_PODS for pod in pods)
        restarted = any(each["type"] == "Restarting" for each in conditions(job))
        return Team(sorted(pods, key=lambda pod: str(pod.metadata.name)), late or restarted)

    def told_of(self, name: str) -> re.Pattern[str]:
        return re.compile(rf"{re.escape(name)}(-worker-\d+)?")

    def keep_away(self, api: k8s.CustomObjectsApi, job: Any, node: str) -> None:
        metadata = job["metadata"]
        patch = away_from(job, node)
        api.patch_namespaced_custom_object(*self.where(metadata["namespace"]), metadata["name"], patch)


def away_from(job: Any, node: str) -> dict[str, Any]:
    """A JSON merge patch of a job that keeps its next pods from that node."""
    template = avoiding(job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"], [node])
    annotations = {AVOIDS: template["metadata"]["annotations"][AVOIDS]}
    changed = {"metadata": {"annotations": annotations}, "spec": {"affinity": template["spec"]["affinity"]}}
    return {
        "metadata": {"annotations": annotations},
        "spec": {"pytorchReplicaSpecs": {"Worker": {"template": changed}}},
    }


def _last(job: Any) -> dict[str, str]:
    true = true_conditions(job)
    return dict(true[-1]) if true else {"type": "Created", "message": ""}


def _elastic(settings: PlatformSettings) -> KubeflowOrgV1ElasticPolicy | None:
    """So that the operator calls the job done when one pod is, whatever became of the others."""
    if not settings.elastic:
        return None
    return KubeflowOrgV1ElasticPolicy(
        min_replicas=settings.pods[0],
        max_replicas=settings.pods[-1],
        n_proc_per_node=settings.processes_per_pod,
        rdzv_backend="c10d",
    )
