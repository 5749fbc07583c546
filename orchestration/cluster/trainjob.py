"""Jobs as TrainJobs, of Kubeflow Trainer.

A TrainJob names a runtime, which has the pods: each job has one of its own, that goes with it. Trainer makes a JobSet
of both, and that an indexed Job. Its pods stay when they have ended, so that one place may have had several.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, ClassVar

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from everest.errors import UsageError
from orchestration.cluster.avoiding import AVOIDS, avoided_by, avoiding
from orchestration.cluster.operator import CALL_S, Operator, Shape, Team, conditions, time_of, true_conditions
from orchestration.cluster.pods import CONTAINER, UNCOUNTED, final, to_tree
from orchestration.job import State
from orchestration.settings import PlatformSettings, variable

_RUNTIME, _JOBSETS = "TrainingRuntime", ("jobset.x-k8s.io", "v1alpha2")
_NODE = "node"  # what Trainer calls the replicated job, and its container
_INDEX = "batch.kubernetes.io/job-completion-index"
_TTL_S = "everest/ttl-s"  # annotation: seconds that it stays when it has ended
_FINAL_CODES = [1, 2, 126, 127]  # of a pod, with which the job has failed


class TrainJobs(Operator):
    setting = "trainjob"
    named, image = "Kubeflow Trainer", r"\btrainer(-controller-manager)?"
    kind, group, version = "TrainJob", "trainer.kubeflow.org", "v1alpha1"
    plurals: ClassVar[Mapping[str, str]] = {kind: "trainjobs", _RUNTIME: "trainingruntimes"}
    container = _NODE
    propagation = "Background"  # a job whose runtime is gone can go no more where Kueue is, which looks for it
    of_job = "jobset.sigs.k8s.io/jobset-name"

    def refuse(self, settings: PlatformSettings) -> None:
        if settings.elastic:
            raise UsageError(
                f"{variable('nodes')} = {settings.nodes}: a TrainJob has one number of pods; name it, or let "
                f"Kubeflow's training operator do it ({variable('operator')}=pytorchjob)"
            )

    def objects(
        self, metadata: k8s.V1ObjectMeta, template: k8s.V1PodTemplateSpec, settings: PlatformSettings
    ) -> Sequence[Any]:
        head = to_tree(metadata)
        api = f"{self.group}/{self.version}"
        kept = {key: value for key, value in head["labels"].items() if not key.startswith("kueue.")}
        runtime = {
            "apiVersion": api,
            "kind": _RUNTIME,
            "metadata": {**head, "labels": kept},
            "spec": {
                "mlPolicy": {"numNodes": settings.pods[-1], "torch": {}},
                "template": {"spec": _job_set(_renamed(to_tree(template)), settings)},
            },
        }
        job = {
            "apiVersion": api,
            "kind": self.kind,
            "metadata": {**head, "annotations": {**head["annotations"], _TTL_S: str(settings.ttl_s)}},
            "spec": {
                "runtimeRef": {"apiGroup": self.group, "kind": _RUNTIME, "name": head["name"]},
                "trainer": {"numNodes": settings.pods[-1], "numProcPerNode": settings.processes_per_pod},
                **({"activeDeadlineSeconds": settings.deadline_s} if settings.deadline_s else {}),
            },
        }
        return [runtime, job]

    def environment(self, settings: PlatformSettings) -> Mapping[str, str]:
        """Trainer tells them all."""
        return {}

    def fields(self) -> Mapping[str, str]:
        return {}

    def state_left(self, job: Any) -> State:
        true = {each["type"] for each in true_conditions(job)}
        if "Complete" in true:
            return "succeeded"
        if "Failed" in true:
            return "failed"
        if job["spec"].get("suspend"):
            return "suspended"
        return "running" if any(each.get("ready") for each in _jobs(job)) else "pending"

    def said(self, job: Any) -> str:
        return next((str(each["message"]) for each in reversed(true_conditions(job))), "")

    def taken_up(self, job: Any) -> bool:
        return bool(conditions(job) or _jobs(job))

    def had_pods(self, job: Any) -> bool:
        return any(each.get("ready") or each.get("succeeded") or each.get("failed") for each in _jobs(job))

    def started(self, job: Any, pods: Sequence[Any]) -> datetime | None:
        return min((pod.status.start_time for pod in pods if pod.status.start_time), default=None)

    def ended(self, job: Any) -> datetime | None:
        return time_of(job, "Complete", "Failed")

    def outlived(self, job: Any, now: datetime) -> bool:
        """Its pods go by themselves, and it stays."""
        ended, ttl_s = self.ended(job), job["metadata"].get("annotations", {}).get(_TTL_S)
        return ended is not None and ttl_s is not None and now > ended + timedelta(seconds=int(ttl_s))

    def shape(self, job: Any) -> Shape:
        trainer = job["spec"]["trainer"]
        return Shape(trainer["numNodes"], trainer["numNodes"], int(trainer["numProcPerNode"]), False)

    def place(self, name: str, index: int) -> str:
        return f"{name}-{_NODE}-0-{index}"

    def pod(self, core: k8s.CoreV1Api, namespace: str, place: str) -> Any:
        job, _, index = place.rpartition("-")
        of_place = f"batch.kubernetes.io/job-name={job},{_INDEX}={index}"
        found = core.list_namespaced_pod(namespace, label_selector=of_place, _request_timeout=CALL_S).items
        if not found:
            raise ApiException(404, f"no pod {place}")
        return _newest_last(found)[-1]

    def team(self, job: Any, pods: Sequence[Any]) -> Team:
        by_place = {int(pod.metadata.labels[_INDEX]): pod for pod in _newest_last(pods)}
        return Team([by_place[index] for index in sorted(by_place)], len(pods) > len(by_place))

    def told_of(self, name: str) -> re.Pattern[str]:
        return re.compile(rf"{re.escape(name)}(-{_NODE}-0(-\d+-\w+)?)?")

    def keep_away(self, api: k8s.CustomObjectsApi, job: Any, node: str) -> None:
        """What a JobSet says of its pods stays; but where there is none, Trainer makes one of the runtime, as it was
        when it first saw that, or of the runtime itself where that note is gone. So all pods of the job begin again."""
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        runtimes = self.where(namespace, _RUNTIME)
        runtime = api.get_namespaced_custom_object(*runtimes, name)
        made = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
        made["template"] = avoiding(made["template"], [node])
        api.replace_namespaced_custom_object(*runtimes, name, runtime)
        with _perhaps_gone():
            k8s.CoreV1Api(api.api_client).delete_namespaced_config_map(f"{name}-runtime-snapshot", namespace)
        with _perhaps_gone():
            api.delete_namespaced_custom_object(*_JOBSETS, namespace, "jobsets", name, propagation_policy="Foreground")
        said = {AVOIDS: ",".join(avoided_by(made["template"]["metadata"]["annotations"]))}
        api.patch_namespaced_custom_object(*self.where(namespace), name, {"metadata": {"annotations": said}})


@contextmanager
def _perhaps_gone() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise


def _job_set(template: Any, settings: PlatformSettings) -> dict[str, Any]:
    """A pod that is put off its node begins again without being counted."""
    job = {
        "backoffLimit": settings.backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [UNCOUNTED, final(_FINAL_CODES, _NODE)]},
        "template": template,
    }
    step = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    return {
        "ttlSecondsAfterFinished": settings.ttl_s,
        "replicatedJobs": [{"name": _NODE, "template": {"metadata": step, "spec": job}}],
    }


def _renamed(template: Any) -> Any:
    spec = template["spec"]
    containers = [{**each, "name": _NODE} if each["name"] == CONTAINER else each for each in spec["containers"]]
    return {**template, "spec": {**spec, "containers": containers, "restartPolicy": "Never"}}


def _jobs(job: Any) -> Sequence[Any]:
    return job.get("status", {}).get("jobsStatus") or []


def _newest_last(pods: Sequence[Any]) -> Sequence[Any]:
    return sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)
