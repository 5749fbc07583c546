"""A sweep's controller as a Job of the cluster, with no more rights than it needs: the laptop can be closed."""

import sys
from typing import Any

import yaml

from everest.errors import UsageError
from orchestration.cluster.rights import rules
from orchestration.code import Code, send
from orchestration.job import MLFLOW_PAGES, SETTINGS_FOLDER
from orchestration.settings import PlatformSettings, variable
from sweeps.space import Space

_SPACE_FILE, _PATCH_FILE = "space.yaml", "pod-patch.yaml"
_RESTARTS = 1000  # of the pod; what it does itself wrong ends the Job


def launch_in_cluster(
    space: Space, settings: PlatformSettings, budget: list[str], code: str, tree: Code | None, dry_run: bool
) -> None:
    """Starts it, in place of one of that name that ended, and its jobs with the code of that digest; empty: the
    image's own. ``tree``: that code, where it is still to be sent.

    Raises UsageError, NameInUseError, and EverestError where the code cannot be sent.
    """
    objects = manifests(space, settings, budget, code)
    if dry_run:
        print("---\n".join(yaml.safe_dump(each, sort_keys=False) for each in objects), end="")
        return
    from orchestration.cluster.launcher import KubernetesLauncher
    from orchestration.s3_checks import require_bucket

    require_bucket(settings)
    if tree:
        send(tree, settings)
    KubernetesLauncher(settings).run_controller(objects)
    print(
        f"{space.name} is searched in {settings.namespace}; everest-sweep status {space.name} shows how it goes, "
        f"everest-sweep stop {space.name} ends it",
        file=sys.stderr,
    )


def manifests(space: Space, settings: PlatformSettings, budget: list[str], code: str = "") -> list[dict[str, Any]]:
    """What the controller needs, and last its Job. Raises UsageError."""
    here, settings = settings, settings.for_pods()
    if not settings.studies:
        raise UsageError(f"{variable('studies')} is not set: in a cluster it must be postgresql://USER@HOST/DATABASE")
    if not settings.mlflow_uri:
        raise UsageError(f"{variable('mlflow_uri')} is not set: the controller reads its trials' numbers there")
    from orchestration.cluster.batch import CONTROLLER, INITS
    from orchestration.cluster.manifest import CODE_DIGEST, controller_pod
    from orchestration.cluster.pods import final
    from orchestration.cluster.reach import require_named_bucket, require_reachable

    name = f"sweep-{space.name}"
    labels = {
        "app.kubernetes.io/name": "everest",
        "app.kubernetes.io/instance": name,
        **CONTROLLER,
        "app.kubernetes.io/managed-by": "everest-sweep",
    }
    metadata = {"name": name, "namespace": settings.namespace, "labels": labels}
    needed = {INITS: " ".join(sorted(space.inits)), CODE_DIGEST: code}
    files = {_SPACE_FILE: yaml.safe_dump(space.model_dump(mode="json", by_alias=True), sort_keys=False)}
    environment = settings.environment() | {MLFLOW_PAGES: str(here.mlflow_uri)}
    if settings.pod_patch:
        files[_PATCH_FILE] = settings.pod_patch.read_text()
        environment["EVEREST_POD_PATCH"] = f"{SETTINGS_FOLDER}/{_PATCH_FILE}"
    command = ["python", "-m", "sweeps", "launch", f"{SETTINGS_FOLDER}/{_SPACE_FILE}", "--launcher", "kubernetes"]
    secrets = (settings.s3_secret, settings.mlflow_secret, settings.studies_secret)
    template = controller_pod(
        settings,
        [*command, "--on-interrupt", "leave", *budget, *(["--code", code] if code else ["--no-code"])],
        environment,
        secrets,
        name,
        labels,
    )
    require_named_bucket(here)
    require_reachable(here, template["spec"], "s3_endpoint", "mlflow_uri", "studies")
    return [
        *([] if settings.sweep_account else _account(metadata)),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata | {"annotations": {key: value for key, value in needed.items() if value}},
            "spec": {
                "backoffLimit": _RESTARTS,
                "ttlSecondsAfterFinished": settings.ttl_s,
                "podFailurePolicy": {"rules": [final([1, 2])]},
                "template": template,
            },
        },
    ]


def _account(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """A service account of the controller's own, for where the platform's chart has made none."""
    name, namespace = metadata["name"], metadata["namespace"]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules()},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]
