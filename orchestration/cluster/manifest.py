"""An experiment as Kubernetes objects: a PyTorchJob and the ConfigMap with its settings. Pure: no cluster is asked.

All pods are Workers, the first of them with rank 0. There is no Master, because the training operator gives jobs that
have one an init container that the ``restricted`` Pod Security Standard refuses.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from kubeflow.training import (
    KubeflowOrgV1ElasticPolicy,
    KubeflowOrgV1PyTorchJob,
    KubeflowOrgV1PyTorchJobSpec,
    KubeflowOrgV1ReplicaSpec,
    KubeflowOrgV1RunPolicy,
    KubeflowOrgV1SchedulingPolicy,
)
from kubeflow.training.api_client import ApiClient
from kubeflow.training.utils.utils import FakeResponse
from kubernetes import client as k8s

from everest.errors import UsageError
from orchestration.cluster.patch import merge
from orchestration.cluster.reach import require_reachable
from orchestration.job import SETTINGS_FOLDER, WORKDIR, JobSpec
from orchestration.provenance import TAGS
from orchestration.settings import PlatformSettings

CONTAINER = "pytorch"  # the name that the operator looks for
LABELS = {"app.kubernetes.io/part-of": "everest", "app.kubernetes.io/managed-by": "everest-jobs"}
PYTORCHJOBS = ("kubeflow.org", "v1")  # group and version
EXPERIMENT_KEY = "experiment.yaml"  # of the ConfigMap
CONFIG_HASH, COMMIT = "everest/config-hash", "everest/commit"
GROUP = "everest/group"

#: The root file system is read-only.
_WRITABLE = {
    "HOME": WORKDIR,
    "TMPDIR": "/tmp",
    "XDG_CACHE_HOME": "/tmp/cache",
    "MPLCONFIGDIR": "/tmp/matplotlib",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_PORT = 23456
_USER = 1000


def manifest(spec: JobSpec, settings: PlatformSettings) -> tuple[KubeflowOrgV1PyTorchJob, k8s.V1ConfigMap]:
    """Raises UsageError where the cluster could not take it (a pod patch, a volume or a name that is none), or pods
    could do nothing with it: no bucket, an address that they cannot reach."""
    if not spec.name[0].isalpha():
        raise UsageError(f"name = {spec.name!r}: must begin with a letter, since the pods get a service of that name")
    here, settings = settings, settings.for_pods()
    template = _template(spec, settings)
    require_reachable(here, to_tree(template.spec), "s3_endpoint", "mlflow_uri")
    job = KubeflowOrgV1PyTorchJob(
        api_version="kubeflow.org/v1",
        kind="PyTorchJob",
        metadata=k8s.V1ObjectMeta(
            name=spec.name,
            namespace=settings.namespace,
            labels=_labels(spec) | ({"kueue.x-k8s.io/queue-name": settings.queue} if settings.queue else {}),
            annotations=_annotations(spec),
        ),
        spec=KubeflowOrgV1PyTorchJobSpec(
            nproc_per_node=str(settings.processes_per_pod) if settings.elastic_restarts is None else None,
            elastic_policy=_elastic(settings),
            run_policy=KubeflowOrgV1RunPolicy(
                clean_pod_policy="Running",
                backoff_limit=settings.backoff_limit,
                ttl_seconds_after_finished=settings.ttl_s,
                active_deadline_seconds=settings.deadline_s,
                scheduling_policy=KubeflowOrgV1SchedulingPolicy(priority_class=settings.priority_class)
                if settings.priority_class
                else None,
            ),
            pytorch_replica_specs={
                "Worker": KubeflowOrgV1ReplicaSpec(
                    replicas=settings.nodes, restart_policy="ExitCode", template=template
                )
            },
        ),
    )
    config = k8s.V1ConfigMap(
        api_version="v1",
        kind="ConfigMap",
        metadata=k8s.V1ObjectMeta(
            name=spec.name, namespace=settings.namespace, labels=_labels(spec), annotations=_annotations(spec)
        ),
        data={EXPERIMENT_KEY: spec.experiment.to_yaml()},
        immutable=True,
    )
    return job, config


def to_yaml(*objects: Any) -> str:
    """As ``kubectl apply -f`` takes it."""
    return "---\n".join(yaml.dump(to_tree(each), sort_keys=False, Dumper=_Dumper) for each in objects)


def to_tree(each: Any) -> Any:
    """As the API server takes it."""
    return _api().sanitize_for_serialization(each)


def controller_pod(
    settings: PlatformSettings, command: list[str], environment: Mapping[str, str], secrets: Sequence[str | None],
    name: str, labels: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """The pod template of what starts jobs itself, with the ConfigMap of that name."""
    empty = k8s.V1EmptyDirVolumeSource
    container = _container(
        settings,
        command=command,
        env=[k8s.V1EnvVar(name=key, value=value) for key, value in {**environment, **_WRITABLE}.items()],
        secrets=secrets,
        resources=k8s.V1ResourceRequirements(requests={"cpu": "100m", "memory": "1Gi"}, limits={"memory": "4Gi"}),
        mounts=[
            k8s.V1VolumeMount(name="settings", mount_path=SETTINGS_FOLDER, read_only=True),
            k8s.V1VolumeMount(name="work", mount_path=WORKDIR),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),
        ],
    )
    volumes = [
        k8s.V1Volume(name="settings", config_map=k8s.V1ConfigMapVolumeSource(name=name)),
        k8s.V1Volume(name="work", empty_dir=empty()),
        k8s.V1Volume(name="tmp", empty_dir=empty()),
    ]
    account = settings.sweep_account or name
    template = _pod(settings, container, volumes, labels, {}, service_account=account, token=True, restart="Never")
    return dict(_api().sanitize_for_serialization(template))


def _template(spec: JobSpec, settings: PlatformSettings) -> k8s.V1PodTemplateSpec:
    volumes, mounts = _volumes(spec, settings)
    container = _container(
        settings,
        command=["python", "-m", "orchestration.pod.worker"],
        env=_environment(spec, settings),
        secrets=(settings.s3_secret, settings.mlflow_secret),
        resources=_resources(settings),
        mounts=mounts,
    )
    return _pod(settings, container, volumes, _labels(spec), _annotations(spec), settings.service_account)


def _container(
    settings: PlatformSettings,
    command: list[str],
    env: list[k8s.V1EnvVar],
    secrets: Sequence[str | None],
    resources: k8s.V1ResourceRequirements,
    mounts: list[k8s.V1VolumeMount],
) -> k8s.V1Container:
    return k8s.V1Container(
        name=CONTAINER,
        image=settings.image,
        command=command,
        working_dir=WORKDIR,
        env=env,
        env_from=[
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=secret))
            for secret in dict.fromkeys(secrets)
            if secret
        ]
        or None,
        resources=resources,
        volume_mounts=mounts,
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
    )


def _pod(
    settings: PlatformSettings,
    container: k8s.V1Container,
    volumes: list[k8s.V1Volume],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    service_account: str,
    token: bool = False,
    restart: str | None = None,
) -> k8s.V1PodTemplateSpec:
    template = k8s.V1PodTemplateSpec(
        metadata=k8s.V1ObjectMeta(labels=dict(labels), annotations=dict(annotations)),
        spec=k8s.V1PodSpec(
            containers=[container],
            volumes=volumes,
            restart_policy=restart,
            service_account_name=service_account,
            automount_service_account_token=token,
            enable_service_links=False,
            image_pull_secrets=[k8s.V1LocalObjectReference(name=settings.pull_secret)]
            if settings.pull_secret
            else None,
            priority_class_name=settings.priority_class,
            termination_grace_period_seconds=settings.grace_s,
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=_USER,
                run_as_group=_USER,
                fs_group=_USER,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
        ),
    )
    return _patched(template, settings)


def _environment(spec: JobSpec, settings: PlatformSettings) -> list[k8s.V1EnvVar]:
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
        "EVEREST_GPUS": str(settings.gpus),
        "EVEREST_MLFLOW_URI": settings.mlflow_uri,
        "EVEREST_MLFLOW_EXPERIMENT": settings.mlflow_experiment,
        "EVEREST_IMAGE": settings.image,
        "EVEREST_COMMIT": spec.commit,
        "EVEREST_JOB": spec.name,
        "EVEREST_SUBMISSION": spec.submission,
        TAGS: json.dumps(dict(spec.tags)) if spec.tags else None,
        # Two pods or more meet at the first one; the operator adds how many they are, and of how many processes.
        "PET_MASTER_ADDR": f"{spec.name}-worker-0" if settings.nodes > 1 else "localhost",
        "PET_MASTER_PORT": str(_PORT),
        "OMP_NUM_THREADS": str(max(1, _cores(settings.cpu) // settings.processes_per_pod)),
        "NCCL_DEBUG": "WARN",
        **_WRITABLE,
    }
    fields = {
        "EVEREST_POD": "metadata.name",
        "EVEREST_NAMESPACE": "metadata.namespace",
        "EVEREST_NODE": "spec.nodeName",
        "PET_NODE_RANK": "metadata.labels['training.kubeflow.org/replica-index']",
    }
    from_fields = [
        k8s.V1EnvVar(
            name=name,
            value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(api_version="v1", field_path=path)),
        )
        for name, path in fields.items()
    ]
    return [k8s.V1EnvVar(name=name, value=value) for name, value in values.items() if value is not None] + from_fields


def _resources(settings: PlatformSettings) -> k8s.V1ResourceRequirements:
    gpus = {settings.gpu_resource: str(settings.gpus)} if settings.gpus else {}
    return k8s.V1ResourceRequirements(
        requests={"cpu": settings.cpu, "memory": settings.memory, **gpus}, limits={"memory": settings.memory, **gpus}
    )


def _cores(quantity: str) -> int:
    return int(float(quantity)) if quantity[-1].isdigit() else 0


def _volumes(spec: JobSpec, settings: PlatformSettings) -> tuple[list[k8s.V1Volume], list[k8s.V1VolumeMount]]:
    empty = k8s.V1EmptyDirVolumeSource
    volumes = [
        k8s.V1Volume(name="experiment", config_map=k8s.V1ConfigMapVolumeSource(name=spec.name)),
        k8s.V1Volume(name="work", empty_dir=empty()),
        k8s.V1Volume(name="tmp", empty_dir=empty()),
        k8s.V1Volume(name="shm", empty_dir=empty(medium="Memory", size_limit=settings.shm)),
    ]
    mounts = [
        k8s.V1VolumeMount(name="experiment", mount_path=SETTINGS_FOLDER, read_only=True),
        k8s.V1VolumeMount(name="work", mount_path=WORKDIR),
        k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),
        k8s.V1VolumeMount(name="shm", mount_path="/dev/shm"),
    ]
    if settings.data:
        kind, _, claim = settings.data.partition(":")
        if kind == "pvc" and claim:
            source = {
                "persistent_volume_claim": k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim, read_only=True)
            }
        elif settings.data.startswith("/"):
            source = {"host_path": k8s.V1HostPathVolumeSource(path=settings.data, type="Directory")}
        else:
            raise UsageError(f"EVEREST_DATA (--data) = {settings.data!r}: must be pvc:NAME or a path of the node")
        volumes.append(k8s.V1Volume(name="data", **source))
        mounts.append(k8s.V1VolumeMount(name="data", mount_path=settings.data_mount, read_only=True))
    return volumes, mounts


def _elastic(settings: PlatformSettings) -> KubeflowOrgV1ElasticPolicy | None:
    """A checkpoint belongs to a number of processes, so that the number of pods never changes."""
    if settings.elastic_restarts is None:
        return None
    return KubeflowOrgV1ElasticPolicy(
        min_replicas=settings.nodes,
        max_replicas=settings.nodes,
        n_proc_per_node=settings.processes_per_pod,
        max_restarts=settings.elastic_restarts,
        rdzv_backend="c10d",
    )


def _labels(spec: JobSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "everest",
        "app.kubernetes.io/instance": spec.name,
        "app.kubernetes.io/component": spec.experiment.stage,
        **({GROUP: spec.group} if spec.group else {}),
        **LABELS,
    }


def _annotations(spec: JobSpec) -> dict[str, str]:
    return {CONFIG_HASH: spec.config_hash, **({COMMIT: spec.commit} if spec.commit else {})}


def _patched(template: k8s.V1PodTemplateSpec, settings: PlatformSettings) -> k8s.V1PodTemplateSpec:
    if settings.pod_patch is None:
        return template
    where = f"pod patch {settings.pod_patch} (EVEREST_POD_PATCH)"
    try:
        patch = yaml.safe_load(settings.pod_patch.read_text())
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(patch, dict) or not patch.keys() <= {"metadata", "spec"}:
        raise UsageError(f"{where} must have metadata and spec, as a pod has")
    merged = merge(_api().sanitize_for_serialization(template), patch)
    try:
        read = _api().deserialize(FakeResponse(merged), "V1PodTemplateSpec")
    except ValueError as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from None
    _nothing_lost(merged, _api().sanitize_for_serialization(read), where)
    return read


def _nothing_lost(asked: Any, read: Any, where: str, path: str = "") -> None:
    """Raises UsageError for a field that a pod does not have."""
    if isinstance(asked, dict):
        for key, value in asked.items():
            if not isinstance(read, dict) or key not in read:
                raise UsageError(f"{where}: a pod has no {f'{path}.{key}'.lstrip('.')}")
            _nothing_lost(value, read[key], where, f"{path}.{key}")
    elif isinstance(asked, list):
        for number, value in enumerate(asked):
            _nothing_lost(value, read[number], where, f"{path}[{number}]")


@cache
def _api() -> Any:
    return ApiClient()


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
