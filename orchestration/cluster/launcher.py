"""Jobs as PyTorchJobs of a cluster: the only module that talks to Kubernetes."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from kubeflow.training import TrainingClient
from kubernetes.client.exceptions import ApiException

from everest.errors import UsageError
from orchestration.cluster.avoiding import avoided_by
from orchestration.cluster.batch import BatchJobs
from orchestration.cluster.diagnosis import Capacity, crew, diagnose, ending, not_taken_up
from orchestration.cluster.errors import answered, configured
from orchestration.cluster.following import WatchedJobs
from orchestration.cluster.logs import PodLogs
from orchestration.cluster.manifest import CODE_DIGEST, GROUP, LABELS, OURS, PYTORCHJOBS, USER, away_from, manifest
from orchestration.cluster.pods import CONTAINER, to_yaml
from orchestration.cluster.shell import PodFolder
from orchestration.cluster.submission import Submissions
from orchestration.cluster.tending import Tending
from orchestration.job import (
    ENDED,
    Following,
    JobSpec,
    JobStatus,
    NameInUseError,
    Needs,
    State,
    UnknownJobError,
    require_rank,
)
from orchestration.kept_log import kept_log
from orchestration.log import EVERYTHING, Wanted
from orchestration.settings import PlatformSettings

_JOB_LABEL = "training.kubeflow.org/job-name"
_STATES: dict[str, State] = {
    "Created": "pending",
    "Running": "running",
    "Restarting": "restarting",
    "Suspended": "suspended",
    "Succeeded": "succeeded",
    "Failed": "failed",
}
_FIRST_PODS = timedelta(seconds=15)  # after a job's start all its first pods are there


class KubernetesLauncher:
    @configured
    def __init__(self, settings: PlatformSettings) -> None:
        self.settings, self.namespace = settings, settings.namespace
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        self._training = TrainingClient(context=settings.context, namespace=settings.namespace)
        self._core = self._training.core_api
        self._custom = self._training.custom_api
        self.batch = BatchJobs(self._core, self.namespace)
        self._submissions = Submissions(self._training, self.namespace, self._job, state_of)
        self._bucket_found = False  # asked for once, however many jobs follow

    def dry_run(self, spec: JobSpec) -> str:
        return to_yaml(*manifest(spec, self.settings))

    def check(self, spec: JobSpec) -> None:
        self._checked(spec)

    @answered
    def submit(self, spec: JobSpec) -> None:
        self._submissions.submit(*self._checked(spec), self.settings.grace_s)

    @answered
    def mend(self, spec: JobSpec) -> None:
        self._submissions.mend(manifest(spec, self.settings)[1])

    @answered
    def status(self, name: str) -> JobStatus:
        return self._status(self._job(name))

    @answered
    def list(self) -> Sequence[JobStatus]:
        return sorted(map(self._status, self._jobs()), key=lambda status: status.created, reverse=True)

    def follow(self, group: str) -> AbstractContextManager[Following]:
        return WatchedJobs(self._custom, self.namespace, f"{GROUP}={group}", state_of)

    def weights_of(self, name: str) -> Path:
        return Path("work") / name  # where the pod puts them

    def folder_of(self, name: str, rank: int) -> PodFolder:
        return PodFolder(self.settings, self.pod_of(name, rank), self.weights_of(name))

    @answered
    def needs(self) -> Mapping[str, Needs]:
        """Raises EverestError where a job's experiment is gone, and nobody knows."""
        found = self.batch.needs()
        for job in self._jobs():
            name, noted = job["metadata"]["name"], job["metadata"].get("annotations", {})
            if state_of(job) != "succeeded" and (tree := self._submissions.experiment(name)) is not None:
                found[name] = Needs([tree["init"]] if tree.get("init") else [], noted.get(CODE_DIGEST, ""))
        return found

    @property
    def gpus(self) -> int:
        return self.settings.gpus * self.settings.pods[-1]

    def run_controller(self, objects: Sequence[dict[str, Any]]) -> None:
        """Starts the Job that comes last and what it needs, which goes with it. Raises NameInUseError while it runs."""
        *needed, job = objects
        self.batch.run(job, needed)

    def tend(self) -> NoReturn:
        """Until it is ended. Raises EverestError where it may not."""
        answered(Tending(self._core, self.namespace, self.avoid).forever)()

    def avoid(self, name: str, node: str) -> bool:
        """Keeps the job's pods from that node, from the next one on. False where they are already, or it is gone."""
        try:
            job = self._job(name)
        except (UnknownJobError, NameInUseError):
            return False
        if node in avoided_by(job["metadata"].get("annotations")):
            return False
        self._submissions.patch(job, away_from(job, node))
        return True

    @answered
    def cancel(self, name: str) -> None:
        self._submissions.delete(self._job(name))

    @answered
    def pod_of(self, name: str, rank: int) -> str:
        """The pod that a process is in. Raises UsageError where the job has no such process, or nobody can say."""
        pods, processes, elastic = _crew_of(name, self._job(name)["spec"])
        require_rank(name, rank, processes * len(pods))
        if elastic and len(pods) > 1:
            raise UsageError(
                f"--rank {rank}: ranks of an elastic job move from pod to pod; its log says where each is, and kubectl "
                f"-n {self.namespace} exec -it {pods[0]} -- bash opens one"
            )
        return pods[rank // processes]

    def logs(
        self, name: str, wanted: Wanted = EVERYTHING, follow: bool = False, last: int | None = None
    ) -> Iterator[str]:
        try:
            spec = self._job(name)["spec"]
        except UnknownJobError:
            if last is not None or not (kept := kept_log(self.settings, name)).pieces:
                raise
            yield from kept.whole(wanted)
            return
        pods, processes, elastic = _crew_of(name, spec)
        require_rank(name, wanted.rank, processes * len(pods))
        asked = pods  # an elastic job's ranks may be in any pod
        if wanted.rank is not None and not elastic:
            asked = [pods[wanted.rank // processes]]
        logs = PodLogs(self._core, self.namespace, CONTAINER, lambda: not follow or self._ended(name))
        said = logs.lines(asked, follow, last, some_may_lack=elastic)
        lines = (each.line(pods.index(each.pod)) for each in said)
        if last is not None:
            yield from (line.text for line in lines if wanted.rank in {None, line.rank} and not line.begins)
            return
        kept = kept_log(self.settings, name)
        needed = set() if elastic else {pods.index(pod) for pod in asked}
        show = kept.followed if follow else kept.whole
        yield from show(wanted, lines, lambda heard: bool(heard) and needed <= heard)

    def _checked(self, spec: JobSpec) -> tuple[Any, Any]:
        """The job and its ConfigMap, where pods could do something with them."""
        from orchestration.s3_checks import require_bucket

        made = manifest(spec, self.settings)
        if not self._bucket_found:
            require_bucket(self.settings)
            self._bucket_found = True
        return made

    def _ended(self, name: str) -> bool:
        try:
            return state_of(self._job(name)) in ENDED
        except UnknownJobError:
            return True

    def _status(self, job: Any) -> JobStatus:
        name, state = job["metadata"]["name"], state_of(job)
        pods = self._pods(name)
        created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        replaced, team = _replaced(job, pods), crew(job, pods)
        lack = team.lack if state == "running" else ""
        if lack and team.running < team.least:
            state = "restarting" if replaced else "pending"
        found, end = None, None
        if lack or state in {"pending", "restarting", "failed"}:
            events, now = self._events(name, created), datetime.now(UTC)
            end = ending(pods, events)
            if state != "failed":
                gpu = self.settings.gpu_resource
                found = diagnose(pods, events, self._capacity(), now, gpu) or not_taken_up(job, pods, now)
        reason = found.reason if found else end.reason if end and not lack else ""
        reason = "; ".join(filter(None, (lack, reason)))
        if state == "failed" and not reason:
            reason = _last_condition(job)["message"]
        if state == "suspended":
            reason = f"waits in the queue {self.settings.queue}" if self.settings.queue else "suspended"
        running = [each for pod in pods for each in pod.status.container_statuses or [] if each.image_id]
        return JobStatus(
            name=name,
            state=state,
            created=created.astimezone(UTC),
            started=_time_of("Running", job),
            ended=_time_of("Succeeded", job) or _time_of("Failed", job),
            reason=reason,
            replaced=replaced,
            user=job["metadata"].get("annotations", {}).get(USER, ""),
            interrupted=state == "failed" and end is not None and end.outside,
            hopeless=bool(found and found.hopeless and state != "running"),
            nodes=tuple(sorted({pod.spec.node_name for pod in pods if pod.spec.node_name})),
            exit_code=end.exit_code if end and state == "failed" else None,
            image=running[0].image_id if running else "",
            avoids=tuple(avoided_by(job["metadata"].get("annotations"))),
        )

    def _events(self, name: str, created: datetime) -> Sequence[Any]:
        """Of this job and its pods, and of none that had the name before."""
        ours = re.compile(rf"{re.escape(name)}(-worker-\d+)?")
        return [
            event
            for event in self._core.list_namespaced_event(self.namespace).items
            if ours.fullmatch(event.involved_object.name) and (event.last_timestamp or event.event_time) >= created
        ]

    def _capacity(self) -> Capacity | None:
        """None where one may not see the nodes."""
        try:
            nodes = self._core.list_node().items
            pods = self._core.list_pod_for_all_namespaces(field_selector="status.phase!=Succeeded,status.phase!=Failed")
        except ApiException as error:
            if error.status == 403:
                return None
            raise
        gpu = self.settings.gpu_resource
        free = {node.metadata.name: int((node.status.allocatable or {}).get(gpu, 0)) for node in nodes}
        most = max(free.values(), default=0)
        for pod in pods.items:
            if pod.spec.node_name in free:
                free[pod.spec.node_name] -= sum(
                    int(((each.resources and each.resources.requests) or {}).get(gpu, 0))
                    for each in pod.spec.containers
                )
        return Capacity(most, max(free.values(), default=0))

    def _jobs(self) -> Sequence[Any]:
        """All of this project, as the API server has them."""
        found = self._custom.list_namespaced_custom_object(
            *PYTORCHJOBS, self.namespace, "pytorchjobs", label_selector=OURS
        )
        return list(found["items"])

    @answered
    def _job(self, name: str) -> Any:
        try:
            job = self._custom.get_namespaced_custom_object(*PYTORCHJOBS, self.namespace, "pytorchjobs", name)
        except ApiException as error:
            if error.status != 404 or "page not found" in str(error.body):
                raise
            raise UnknownJobError(
                f"no job {name!r} in {self.namespace}; everest-jobs list shows those there are"
            ) from None
        labels = job["metadata"].get("labels", {})
        if not labels.items() >= LABELS.items():
            raise NameInUseError(
                f"the PyTorchJob {name} in {self.namespace} is not one of this project; choose another name"
            )
        return job

    def _pods(self, name: str) -> Sequence[Any]:
        pods = self._core.list_namespaced_pod(self.namespace, label_selector=f"{_JOB_LABEL}={name}")
        return sorted(pods.items, key=lambda pod: pod.metadata.name)


def _crew_of(name: str, spec: Any) -> tuple[list[str], int, bool]:
    """A job's pods, the processes of each, and whether ranks may be in any of them."""
    elastic = "elasticPolicy" in spec
    processes = int(spec["elasticPolicy"]["nProcPerNode"] if elastic else spec["nprocPerNode"])
    count = spec["pytorchReplicaSpecs"]["Worker"]["replicas"]
    return [f"{name}-worker-{index}" for index in range(count)], processes, elastic


def state_of(job: Any) -> State:
    if job["metadata"].get("deletionTimestamp"):
        return "cancelling"
    return _STATES[_last_condition(job)["type"]]


def _last_condition(job: Any) -> dict[str, str]:
    true = [each for each in job.get("status", {}).get("conditions") or [] if each["status"] == "True"]
    return dict(true[-1]) if true else {"type": "Created", "message": ""}


def _time_of(kind: str, job: Any) -> datetime | None:
    """When it last became so."""
    for each in job.get("status", {}).get("conditions") or []:
        if each["type"] == kind:
            return datetime.fromisoformat(each["lastTransitionTime"])
    return None


def _replaced(job: Any, pods: Sequence[Any]) -> bool:
    status = job.get("status", {})
    if any(each["type"] == "Restarting" for each in status.get("conditions") or []):
        return True
    begun = datetime.fromisoformat(status.get("startTime") or job["metadata"]["creationTimestamp"])
    return any(pod.metadata.creation_timestamp - begun > _FIRST_PODS for pod in pods)
