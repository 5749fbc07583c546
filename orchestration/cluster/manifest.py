"""An experiment as Kubernetes objects: a job and the ConfigMap with its settings. Pure: no cluster is asked."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kubernetes import client as k8s

from everest.errors import UsageError
from orchestration.cluster.avoiding import AVOIDS
from orchestration.cluster.operator import Operator
from orchestration.cluster.pods import WRITABLE, api, container, data_volume, pod_template, scratch_volumes, to_tree
from orchestration.cluster.queue import PRIORITY, QUEUE
from orchestration.cluster.reach import require_named_bucket, require_reachable
from orchestration.job import CODE, MLFLOW_PAGES, POD_IP, SETTINGS_FOLDER, SUBMITTED, JobSpec
from orchestration.provenance import TAGS
from orchestration.settings import PlatformSettings, variable
from orchestration.teams import team_sizes

LABELS = {"app.kubernetes.io/part-of": "everest", "app.kubernetes.io/managed-by": "everest-jobs"}
OURS = ",".join(f"{key}={value}" for key, value in LABELS.items())  # as a selector
NAME = "app.kubernetes.io/instance"  # the label with a job's, of its pods too
EXPERIMENT_KEY = "experiment.yaml"  # of the ConfigMap
CONFIG_HASH, COMMIT, CODE_DIGEST = "everest/config-hash", "everest/commit", "everest/code"
GROUP, USER = "everest/group", "everest/user"


def are_ours(labels: Mapping[str, str] | None) -> bool:
    """Whether an object with these labels is one of this project."""
    return (labels or {}).items() >= LABELS.items()


class Manifest(NamedTuple):
    """``needed``: what is there before the job, and goes with it, as its ConfigMap does."""

    needed: Sequence[Any]
    job: Any
    config: k8s.V1ConfigMap


def manifest(spec: JobSpec, settings: PlatformSettings, operator: Operator) -> Manifest:
    """Raises UsageError where the cluster could not take it (a pod patch, a volume or a name that is none), or pods
    could do nothing with it: no bucket, an address that they cannot reach."""
    if not spec.name[0].isalpha():
        raise UsageError(f"name = {spec.name!r}: must begin with a letter, since the pods get a service of that name")
    operator.refuse(settings)
    team_sizes(settings, spec.experiment)
    here, settings = settings, settings.for_pods()
    template = _template(spec, here, settings, operator)
    require_named_bucket(here)
    require_reachable(here, to_tree(template.spec), "s3_endpoint", "mlflow_uri")
    *needed, job = operator.objects(_metadata(spec, settings, _queueing(settings)), template, settings)
    config = k8s.V1ConfigMap(
        api_version="v1",
        kind="ConfigMap",
        metadata=_metadata(spec, settings, {}),
        data={EXPERIMENT_KEY: spec.experiment.to_yaml()},
        immutable=True,
    )
    return Manifest(needed, job, config)


def _queueing(settings: PlatformSettings) -> Mapping[str, str]:
    """Labels. Raises UsageError."""
    if settings.queue_priority and not settings.queue:
        raise UsageError(
            f"{variable('queue_priority')} = {settings.queue_priority!r}: jobs have it in a queue, and "
            f"{variable('queue')} names none"
        )
    labels = {QUEUE: settings.queue, PRIORITY: settings.queue_priority}
    return {name: value for name, value in labels.items() if value}


def _metadata(spec: JobSpec, settings: PlatformSettings, labels: Mapping[str, str]) -> k8s.V1ObjectMeta:
    return k8s.V1ObjectMeta(
        name=spec.name,
        namespace=settings.namespace,
        labels={**_labels(spec), **labels},
        annotations=_annotations(spec, settings),
    )


def controller_pod(
    settings: PlatformSettings, command: list[str], environment: Mapping[str, str], secrets: Sequence[str | None],
    name: str, labels: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """The pod template of what starts jobs itself, with the ConfigMap of that name."""
    scratch, scratch_mounts = scratch_volumes()
    made = container(
        settings,
        command=command,
        env=[k8s.V1EnvVar(name=key, value=value) for key, value in {**environment, **WRITABLE}.items()],
        secrets=secrets,
        resources=k8s.V1ResourceRequirements(requests={"cpu": "100m", "memory": "1Gi"}, limits={"memory": "4Gi"}),
        mounts=[
            k8s.V1VolumeMount(name="settings", mount_path=SETTINGS_FOLDER, read_only=True),
            *scratch_mounts,
        ],
        may_lack=settings.notify_secret,
    )
    volumes = [
        k8s.V1Volume(name="settings", config_map=k8s.V1ConfigMapVolumeSource(name=name)),
        *scratch,
    ]
    account = settings.sweep_account or name
    template = pod_template(settings, made, volumes, labels, {}, service_account=account, token=True, restart="Never")
    return dict(api().sanitize_for_serialization(template))


def _template(
    spec: JobSpec, here: PlatformSettings, settings: PlatformSettings, operator: Operator
) -> k8s.V1PodTemplateSpec:
    volumes, mounts = _volumes(spec, settings)
    made = container(
        settings,
        command=["python", "-m", "orchestration.pod.code" if spec.code else "orchestration.pod.worker"],
        env=_environment(spec, here, settings, operator),
        secrets=(settings.s3_secret, settings.mlflow_secret),
        resources=_resources(settings),
        mounts=mounts,
        may_lack=_webhook_secret(spec, settings),
    )
    return pod_template(settings, made, volumes, _labels(spec), _annotations(spec, settings), settings.service_account)


def _environment(
    spec: JobSpec, here: PlatformSettings, settings: PlatformSettings, operator: Operator
) -> list[k8s.V1EnvVar]:
    values = {
        "EVEREST_S3_ENDPOINT": settings.s3_endpoint,
        "EVEREST_S3_BUCKET": settings.s3_bucket,
        "EVEREST_S3_PREFIX": settings.s3_prefix,
        "EVEREST_S3_REGION": settings.s3_region,
        "EVEREST_PATIENCE_S": str(settings.patience_s),
        "EVEREST_CACHE": str(settings.cache) if settings.cache else None,
        "EVEREST_CACHE_SIZE": settings.cache_size,
        "EVEREST_BACKOFF_LIMIT": str(settings.backoff_limit),
        "EVEREST_GRACE_S": str(settings.grace_s),
        "EVEREST_STALL_STEPS": f"{settings.stall_steps:g}",
        "EVEREST_STALL_S": f"{settings.stall_s:g}",
        "EVEREST_STALL_SLOW_S": f"{settings.stall_slow_s:g}",
        "EVEREST_IDLE_PERCENT": f"{settings.idle_percent:g}",
        "EVEREST_IDLE_S": f"{settings.idle_s:g}",
        "EVEREST_IDLE_END": str(settings.idle_end).lower(),
        "EVEREST_GPUS": str(settings.gpus),
        "EVEREST_GPU_HOUR_PRICE": None if settings.gpu_hour_price is None else f"{settings.gpu_hour_price:g}",
        "EVEREST_MLFLOW_URI": settings.mlflow_uri,
        "EVEREST_MLFLOW_EXPERIMENT": settings.mlflow_experiment,
        "EVEREST_IMAGE": settings.image,
        "EVEREST_COMMIT": spec.commit,
        CODE: spec.code or None,
        "EVEREST_JOB": spec.name,
        "EVEREST_SUBMISSION": spec.submission,
        "EVEREST_USER": settings.user,
        TAGS: json.dumps(dict(spec.tags)) if spec.tags else None,
        **_telling(spec, here),
        **operator.environment(settings),
        "EVEREST_NODES": settings.nodes if settings.several_pods else None,
        "EVEREST_PROCESSES": str(settings.processes_per_pod) if settings.several_pods else None,
        "OMP_NUM_THREADS": str(max(1, _cores(settings.cpu) // settings.processes_per_pod)),
        "NCCL_DEBUG": "WARN",
        **WRITABLE,
    }
    fields = {
        "EVEREST_POD": "metadata.name",
        "EVEREST_NAMESPACE": "metadata.namespace",
        "EVEREST_NODE": "spec.nodeName",
        **operator.fields(),
        "EVEREST_AVOIDS": f"metadata.annotations['{AVOIDS}']",
        **({POD_IP: "status.podIP"} if settings.several_pods else {}),
    }
    from_fields = [
        k8s.V1EnvVar(
            name=name,
            value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(api_version="v1", field_path=path)),
        )
        for name, path in fields.items()
    ]
    return [k8s.V1EnvVar(name=name, value=value) for name, value in values.items() if value is not None] + from_fields


def _webhook_secret(spec: JobSpec, settings: PlatformSettings) -> str | None:
    """None for a sweep's jobs: the sweep tells."""
    return None if spec.group else settings.notify_secret


def _telling(spec: JobSpec, here: PlatformSettings) -> dict[str, str | None]:
    """What the pods tell of the job that they do not know by themselves."""
    if not (secret := _webhook_secret(spec, here)):
        return {}
    submitted = f"{spec.submitted:.0f}" if spec.submitted else None
    return {"EVEREST_NOTIFY_SECRET": secret, MLFLOW_PAGES: here.mlflow_uri, SUBMITTED: submitted}


def _resources(settings: PlatformSettings) -> k8s.V1ResourceRequirements:
    gpus = {settings.gpu_resource: str(settings.gpus)} if settings.gpus else {}
    return k8s.V1ResourceRequirements(
        requests={"cpu": settings.cpu, "memory": settings.memory, **gpus}, limits={"memory": settings.memory, **gpus}
    )


def _cores(quantity: str) -> int:
    return int(float(quantity)) if quantity[-1].isdigit() else 0


def _volumes(spec: JobSpec, settings: PlatformSettings) -> tuple[list[k8s.V1Volume], list[k8s.V1VolumeMount]]:
    scratch, scratch_mounts = scratch_volumes()
    volumes = [
        k8s.V1Volume(name="experiment", config_map=k8s.V1ConfigMapVolumeSource(name=spec.name)),
        *scratch,
        k8s.V1Volume(name="shm", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=settings.shm)),
    ]
    mounts = [
        k8s.V1VolumeMount(name="experiment", mount_path=SETTINGS_FOLDER, read_only=True),
        *scratch_mounts,
        k8s.V1VolumeMount(name="shm", mount_path="/dev/shm"),
    ]
    if data := data_volume(settings):
        volumes.append(data[0])
        mounts.append(data[1])
    return volumes, mounts


def _labels(spec: JobSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "everest",
        NAME: spec.name,
        "app.kubernetes.io/component": spec.experiment.stage,
        **({GROUP: spec.group} if spec.group else {}),
        **LABELS,
    }


def _annotations(spec: JobSpec, settings: PlatformSettings) -> dict[str, str]:
    known = {CONFIG_HASH: spec.config_hash, COMMIT: spec.commit, CODE_DIGEST: spec.code, USER: settings.user}
    return {name: value for name, value in known.items() if value}
