"""What a cluster has, and lets one do, before anything is submitted to it."""

import re
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kubernetes import client as k8s
from kubernetes import config
from kubernetes.client.exceptions import ApiException

from everest.errors import EverestError
from orchestration.cluster.diagnosis import NO_IMAGE
from orchestration.cluster.errors import answered, configured
from orchestration.cluster.jobs import OPERATORS, Jobs
from orchestration.cluster.operator import Operator
from orchestration.cluster.rights import NEEDED
from orchestration.settings import PlatformSettings

_PULL_S = 600


class Cluster:
    """Every call raises EverestError with one line where the cluster does not answer or does not allow it."""

    @configured
    def __init__(self, settings: PlatformSettings) -> None:
        self.settings, self.namespace = settings, settings.namespace
        config.load_kube_config(context=settings.context)
        self._core = k8s.CoreV1Api()
        self._jobs = Jobs(k8s.CustomObjectsApi(), self.namespace, settings.operator)

    @answered
    def version(self) -> str:
        return str(k8s.VersionApi().get_code().git_version)

    @answered
    def require_namespace(self) -> None:
        """Raises EverestError where it is not there, as far as one may see that."""
        try:
            self._core.read_namespace(self.namespace)
        except ApiException as error:
            if error.status == 404:
                raise EverestError(f"there is no namespace {self.namespace} (EVEREST_NAMESPACE)") from None
            if error.status != 403:
                raise

    @answered
    def forbidden(self) -> list[str]:
        """What one may not do of what is needed."""
        reviews = k8s.AuthorizationV1Api()
        absent = {each.group for each in OPERATORS} - {each.group for each in self._jobs.operators}
        found = []
        for (group, resource), verbs in NEEDED.items():
            if group in absent:
                continue
            kind, _, sub = resource.partition("/")
            for verb in verbs:
                asked = k8s.V1ResourceAttributes(
                    group=group, resource=kind, subresource=sub or None, verb=verb, namespace=self.namespace
                )
                spec = k8s.V1SelfSubjectAccessReviewSpec(resource_attributes=asked)
                answer = reviews.create_self_subject_access_review(k8s.V1SelfSubjectAccessReview(spec=spec))
                if not answer.status.allowed:
                    found.append(f"{verb} {resource}")
        return found

    @answered
    def operator(self) -> str:
        """What makes the pods of new jobs, and its version, as far as one may see it. Raises EverestError where there
        is none."""
        first, *others = self._jobs.operators
        try:
            version = operator_among(k8s.AppsV1Api().list_deployment_for_all_namespaces().items, self.namespace, first)
        except ApiException as error:
            if error.status != 403:
                raise
            version = "version unknown (one may not see deployments)"
        beside = "".join(f"; {each.named} is there too" for each in others)
        return f"{first.named}, {version}{beside}"

    @answered
    def gpus(self) -> dict[str, int]:
        """Of each node that has some."""
        gpu = self.settings.gpu_resource
        found = {node.metadata.name: int((node.status.allocatable or {}).get(gpu, 0)) for node in self._nodes()}
        return {name: count for name, count in found.items() if count}

    @answered
    def nodes_with_image(self) -> list[str]:
        """Nodes that have pulled the settings' image already, as far as they list it."""
        wanted = self.settings.image
        names = {wanted, f"docker.io/{wanted}", f"docker.io/library/{wanted}"}
        return [
            node.metadata.name
            for node in self._nodes()
            if any(names & set(image.names or []) for image in node.status.images or [])
        ]

    def _nodes(self) -> list[Any]:
        return list(self._core.list_node().items)

    @answered
    def pull(self) -> str:
        """Starts a pod of the image and removes it. The node that has the image then; raises EverestError otherwise."""
        name = f"everest-doctor-{uuid.uuid4().hex[:8]}"
        self._core.create_namespaced_pod(self.namespace, self._nothing(name))
        try:
            return self._pulled(name)
        finally:
            with suppress(ApiException):
                self._core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def _pulled(self, name: str) -> str:
        deadline = time.monotonic() + _PULL_S
        while time.monotonic() < deadline:
            pod = self._core.read_namespaced_pod(name, self.namespace)
            for status in pod.status.container_statuses or []:
                if waiting := status.state.waiting:
                    if waiting.reason in NO_IMAGE:
                        raise EverestError(f"{waiting.reason}: {' '.join((waiting.message or '').split())[:300]}")
                elif status.state.running or status.state.terminated:
                    return str(pod.spec.node_name)
            time.sleep(1)
        raise EverestError(f"not within {_PULL_S} s")

    def _nothing(self, name: str) -> k8s.V1Pod:
        small = {"cpu": "10m", "memory": "64Mi"}
        pull = self.settings.pull_secret
        return k8s.V1Pod(
            metadata=k8s.V1ObjectMeta(name=name, labels={"app.kubernetes.io/part-of": "everest"}),
            spec=k8s.V1PodSpec(
                restart_policy="Never",
                automount_service_account_token=False,
                image_pull_secrets=[k8s.V1LocalObjectReference(name=pull)] if pull else None,
                security_context=k8s.V1PodSecurityContext(
                    run_as_non_root=True, run_as_user=1000, seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault")
                ),
                containers=[
                    k8s.V1Container(
                        name="nothing",
                        image=self.settings.image,
                        image_pull_policy="IfNotPresent",
                        command=["true"],
                        resources=k8s.V1ResourceRequirements(requests=small, limits=small),
                        security_context=k8s.V1SecurityContext(
                            allow_privilege_escalation=False, capabilities=k8s.V1Capabilities(drop=["ALL"])
                        ),
                    )
                ],
            ),
        )


def operator_among(deployments: Iterable[Any], namespace: str, operator: Operator) -> str:
    """The operator's version. Raises EverestError where no replica of it is ready or it looks elsewhere."""
    asleep: list[str] = []
    for each in deployments:
        for container in each.spec.template.spec.containers:
            version = re.search(rf"{operator.image}[:@](?P<version>.+)", container.image or "")
            if version is None:
                continue
            words = [*(container.command or []), *(container.args or [])]
            watched = re.search(r"--namespace[= ](\S+)", " ".join(words))
            if watched and watched[1] != namespace:
                asleep.append(f"{_named(each)} looks after {watched[1]} alone, not {namespace} (EVEREST_NAMESPACE)")
            elif not (each.status and each.status.ready_replicas):
                asleep.append(f"{_named(each)} has no ready replica, so that nobody takes jobs up; kubectl describe it")
            else:
                return version["version"]
    if asleep:
        raise EverestError("; ".join(asleep))
    return "version unknown (its deployment is not in this cluster)"


def _named(deployment: Any) -> str:
    return f"deployment {deployment.metadata.name} of {deployment.metadata.namespace}"
