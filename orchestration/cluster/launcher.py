"""Jobs of a cluster."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from kubeflow.training import TrainingClient

from everest.errors import UsageError
from orchestration.cluster.around import Around
from orchestration.cluster.avoiding import avoided_by
from orchestration.cluster.batch import BatchJobs
from orchestration.cluster.diagnosis import crew, diagnose, ending, not_taken_up
from orchestration.cluster.errors import answered, configured
from orchestration.cluster.following import WatchedJobs
from orchestration.cluster.jobs import OPERATORS, Jobs, operator_of, state_of
from orchestration.cluster.logs import PodLogs
from orchestration.cluster.manifest import CODE_DIGEST, GROUP, NAME, OURS, USER, Manifest, manifest
from orchestration.cluster.operator import Operator
from orchestration.cluster.pods import to_yaml
from orchestration.cluster.queue import why_suspended
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
    UnknownJobError,
    Unreachable,
    require_rank,
)
from orchestration.kept_log import kept_log
from orchestration.log import EVERYTHING, Wanted
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)


class KubernetesLauncher:
    @configured
    def __init__(self, settings: PlatformSettings) -> None:
        self.settings, self.namespace = settings, settings.namespace
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        training = TrainingClient(context=settings.context, namespace=settings.namespace)
        self._core = training.core_api
        self._jobs = Jobs(training.custom_api, self.namespace, settings.operator)
        self.batch = BatchJobs(self._core, self.namespace)
        self._submissions = Submissions(self._core, self.namespace, self._jobs)
        self._bucket_found = False  # asked for once, however many jobs follow

    def dry_run(self, spec: JobSpec) -> str:
        try:
            operator = self._jobs.operators[0]
        except Unreachable as error:
            operator = OPERATORS[0]
            log.warning("%s; shown is what %s would get (EVEREST_OPERATOR)", error, operator.named)
        made = manifest(spec, self.settings, operator)
        return to_yaml(*made.needed, made.job, made.config)

    def check(self, spec: JobSpec) -> None:
        self._checked(spec)

    @answered
    def submit(self, spec: JobSpec) -> None:
        self._submissions.submit(self._checked(spec), self.settings.grace_s)

    @answered
    def mend(self, spec: JobSpec) -> None:
        self._submissions.mend(self._made(spec).config)

    @answered
    def status(self, name: str) -> JobStatus:
        job = self._jobs.get(name)
        return self._status(job, self._around(f"{operator_of(job).of_job}={name}"))

    @answered
    def list(self) -> Sequence[JobStatus]:
        around = self._around(OURS)
        statuses = (self._status(job, around) for job in self._jobs.all())
        return sorted(statuses, key=lambda status: status.created, reverse=True)

    def follow(self, group: str) -> AbstractContextManager[Following]:
        return WatchedJobs(self._jobs, self.namespace, f"{GROUP}={group}")

    def weights_of(self, name: str) -> Path:
        return Path("work") / name  # where the pod puts them

    def folder_of(self, name: str, rank: int) -> PodFolder:
        return PodFolder(self.settings, self.pod_of(name, rank), self.weights_of(name))

    @answered
    def needs(self) -> Mapping[str, Needs]:
        """Raises EverestError where a job's experiment is gone, and nobody knows. Pods may outlive a cancelled job."""
        pods = self._core.list_namespaced_pod(self.namespace, label_selector=OURS).items
        going = (pod for pod in pods if pod.status.phase not in {"Succeeded", "Failed"})
        found = {pod.metadata.labels.get(NAME, ""): Needs() for pod in going} | self.batch.needs()
        for job in self._jobs.of_every_kind():
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
        answered(Tending(self._core, self.namespace, self.avoid, self.clear).forever)()

    def avoid(self, name: str, node: str) -> bool:
        """Keeps the job's pods from that node, from the next one on. False where they are already, or it is gone."""
        try:
            job = self._jobs.get(name)
        except (UnknownJobError, NameInUseError):
            return False
        if node in avoided_by(job["metadata"].get("annotations")):
            return False
        operator_of(job).keep_away(self._jobs.api, job, node)
        return True

    def clear(self) -> Sequence[str]:
        """Removes jobs that ended long ago, where nobody else does; their names."""
        over = [job for job in self._jobs.all() if operator_of(job).outlived(job, datetime.now(UTC))]
        for job in over:
            self._jobs.delete(job)
        return [job["metadata"]["name"] for job in over]

    @answered
    def cancel(self, name: str) -> None:
        self._jobs.delete(self._jobs.get(name))

    @answered
    def pod_of(self, name: str, rank: int) -> str:
        """The pod that a process is in. Raises UsageError where the job has no such process, or nobody can say."""
        job = self._jobs.get(name)
        operator = operator_of(job)
        places, processes, elastic = _places(operator, job)
        require_rank(name, rank, processes * len(places))
        if elastic and len(places) > 1:
            raise UsageError(
                f"--rank {rank}: ranks of an elastic job move from pod to pod; its log says where each is, and kubectl "
                f"-n {self.namespace} exec -it {places[0]} -- bash opens one"
            )
        return str(operator.pod(self._core, self.namespace, places[rank // processes]).metadata.name)

    def logs(
        self, name: str, wanted: Wanted = EVERYTHING, follow: bool = False, last: int | None = None
    ) -> Iterator[str]:
        try:
            job = self._jobs.get(name)
        except UnknownJobError:
            if last is not None or not (kept := kept_log(self.settings, name)).pieces:
                raise
            yield from kept.whole(wanted)
            return
        operator = operator_of(job)
        places, processes, elastic = _places(operator, job)
        require_rank(name, wanted.rank, processes * len(places))
        asked = places  # an elastic job's ranks may be in any pod
        if wanted.rank is not None and not elastic:
            asked = [places[wanted.rank // processes]]
        logs = PodLogs(self._core, self.namespace, operator, lambda: not follow or self._ended(name))
        said = logs.lines(asked, follow, last, some_may_lack=elastic)
        lines = (each.line(places.index(each.place)) for each in said)
        if last is not None:
            yield from (line.text for line in lines if wanted.rank in {None, line.rank} and not line.begins)
            return
        kept = kept_log(self.settings, name)
        needed = set() if elastic else {places.index(place) for place in asked}
        show = kept.followed if follow else kept.whole
        yield from show(wanted, lines, lambda heard: bool(heard) and needed <= heard)

    def _made(self, spec: JobSpec) -> Manifest:
        return manifest(spec, self.settings, self._jobs.operators[0])

    def _checked(self, spec: JobSpec) -> Manifest:
        """Where pods could do something with it."""
        from orchestration.s3_checks import require_bucket

        made = self._made(spec)
        if not self._bucket_found:
            require_bucket(self.settings)
            self._bucket_found = True
        return made

    def _ended(self, name: str) -> bool:
        try:
            return state_of(self._jobs.get(name)) in ENDED
        except UnknownJobError:
            return True

    def _around(self, pods: str) -> Around:
        return Around(self._core, self.settings, pods)

    def _status(self, job: Any, around: Around) -> JobStatus:
        name, operator = job["metadata"]["name"], operator_of(job)
        state = operator.state_of(job)
        all_pods = around.pods(operator, name)
        pods, replaced = operator.team(job, all_pods)
        created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        team = crew(operator.shape(job), pods)
        lack = team.lack if state == "running" else ""
        if lack and team.running < team.least:
            state = "pending"
        if state == "pending" and replaced:
            state = "restarting"
        found, end = None, None
        if lack or state in {"pending", "restarting", "failed"}:
            events, now = around.events(operator.told_of(name), created), datetime.now(UTC)
            end = ending(pods, events)
            if state != "failed":
                gpu = self.settings.gpu_resource
                found = diagnose(pods, events, around.capacity, now, gpu) or not_taken_up(operator, job, pods, now)
        reason = found.reason if found else end.reason if end and not lack else ""
        reason = "; ".join(filter(None, (lack, reason)))
        if state == "failed" and not reason:
            reason = operator.said(job)
        if state == "suspended":
            reason = why_suspended(job, around.workloads)
        running = [each for pod in pods for each in pod.status.container_statuses or [] if each.image_id]
        return JobStatus(
            name=name,
            state=state,
            created=created.astimezone(UTC),
            started=operator.started(job, all_pods),
            ended=operator.ended(job),
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


def _places(operator: Operator, job: Any) -> tuple[list[str], int, bool]:
    """Of a job's pods, the processes of each, and whether ranks may be in any of them."""
    shape = operator.shape(job)
    places = [operator.place(job["metadata"]["name"], index) for index in range(shape.most)]
    return places, shape.processes, shape.elastic
