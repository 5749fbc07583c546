"""Pods: how ours are secured, what they may write to, where they find videos. Pure: no cluster is asked."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml
from kubeflow.training.api_client import ApiClient
from kubeflow.training.utils.utils import FakeResponse
from kubernetes import client as k8s

from everest.errors import UsageError
from orchestration.cluster.avoiding import settled
from orchestration.cluster.patch import merge
from orchestration.job import WORKDIR
from orchestration.settings import PlatformSettings

CONTAINER = "pytorch"  # the name that the operator looks for
_USER = 1000

#: The root file system is read-only.
WRITABLE = {
    "HOME": WORKDIR,
    "TMPDIR": "/tmp",
    "XDG_CACHE_HOME": "/tmp/cache",
    "MPLCONFIGDIR": "/tmp/matplotlib",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def container(
    settings: PlatformSettings,
    command: list[str],
    env: list[k8s.V1EnvVar],
    secrets: Sequence[str | None],
    resources: k8s.V1ResourceRequirements,
    mounts: list[k8s.V1VolumeMount],
    may_lack: str | None = None,
) -> k8s.V1Container:
    """One that gains no rights and writes only to volumes; all keys of the secrets are in its environment.

    ``may_lack``: a secret that it starts without where there is none.
    """
    env_from = [_all_of(secret) for secret in dict.fromkeys(secrets) if secret]
    env_from += [_all_of(may_lack, optional=True)] if may_lack else []
    return k8s.V1Container(
        name=CONTAINER,
        image=settings.image,
        command=command,
        working_dir=WORKDIR,
        env=env,
        env_from=env_from or None,
        resources=resources,
        volume_mounts=mounts,
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
    )


def _all_of(secret: str, optional: bool | None = None) -> k8s.V1EnvFromSource:
    return k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=secret, optional=optional))


def pod_template(
    settings: PlatformSettings,
    container: k8s.V1Container,
    volumes: list[k8s.V1Volume],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    service_account: str,
    token: bool = False,
    restart: str | None = None,
) -> k8s.V1PodTemplateSpec:
    """As the ``restricted`` Pod Security Standard has it, patched by the settings. Raises UsageError for the patch."""
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
    tree = to_tree(patched(template, settings))
    return _read(settled(tree, settings.node_lost_s, filter(None, (settings.avoid_nodes or "").split(","))))


#: Of a Job's pods: being put off a node counts as no failure.
UNCOUNTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def final(codes: Sequence[int], container: str = CONTAINER) -> dict[str, Any]:
    """Of a Job's pods: exit codes with which it has failed, and is not tried again."""
    return {
        "action": "FailJob",
        "onExitCodes": {"containerName": container, "operator": "In", "values": list(codes)},
    }


def scratch_volumes() -> tuple[list[k8s.V1Volume], list[k8s.V1VolumeMount]]:
    """What a pod may write to: its work folder and /tmp."""
    places = {"work": WORKDIR, "tmp": "/tmp"}
    return (
        [k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource()) for name in places],
        [k8s.V1VolumeMount(name=name, mount_path=path) for name, path in places.items()],
    )


def data_volume(settings: PlatformSettings, writable: bool = False) -> tuple[k8s.V1Volume, k8s.V1VolumeMount] | None:
    """The volume of videos, and where a pod finds it. Raises UsageError."""
    if not settings.data:
        return None
    kind, _, claim = settings.data.partition(":")
    if kind == "pvc" and claim:
        found = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim, read_only=not writable)
        volume = k8s.V1Volume(name="data", persistent_volume_claim=found)
    elif settings.data.startswith("/"):
        volume = k8s.V1Volume(name="data", host_path=k8s.V1HostPathVolumeSource(path=settings.data, type="Directory"))
    else:
        raise UsageError(f"EVEREST_DATA (--data) = {settings.data!r}: must be pvc:NAME or a path of the node")
    return volume, k8s.V1VolumeMount(name="data", mount_path=settings.data_mount, read_only=not writable)


def to_yaml(*objects: Any) -> str:
    """As ``kubectl apply -f`` takes it."""
    return "---\n".join(yaml.dump(to_tree(each), sort_keys=False, Dumper=_Dumper) for each in objects)


def to_tree(each: Any) -> Any:
    """As the API server takes it."""
    return api().sanitize_for_serialization(each)


def patched(template: k8s.V1PodTemplateSpec, settings: PlatformSettings) -> k8s.V1PodTemplateSpec:
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
    merged = merge(api().sanitize_for_serialization(template), patch)
    try:
        read = _read(merged)
    except ValueError as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from None
    _nothing_lost(merged, api().sanitize_for_serialization(read), where)
    return read


def _read(tree: Any) -> k8s.V1PodTemplateSpec:
    return api().deserialize(FakeResponse(tree), "V1PodTemplateSpec")


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
def api() -> Any:
    return ApiClient()


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
