"""Where a job's pods do not stay: on nodes that are gone, and on those that it avoids. Pure: no cluster is asked."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from orchestration.job import UNFIT

AVOIDS = "everest/avoids"  # annotation of a job and its pods: names of nodes
_GONE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")  # taints of a node that does not answer
_SILENT = timedelta(seconds=30)  # that a node may leave a pod that is to end as it was
_LATE = timedelta(seconds=60)  # after the grace that a pod was given


def settled(template: Any, lost_s: int, avoided: Iterable[str]) -> Any:
    """A pod template's tree, with how long its pods stay on a node that is gone, and without the nodes avoided.

    What it tolerates already stays as it is.
    """
    spec = template["spec"]
    tolerated = spec.get("tolerations") or []
    known = {each.get("key") for each in tolerated}
    ours = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": lost_s}
        for key in _GONE
        if not {key, None} & known
    ]
    return avoiding({**template, "spec": {**spec, "tolerations": [*tolerated, *ours]}}, avoided)


def avoiding(template: Any, nodes: Iterable[str]) -> Any:
    """A pod template's tree, without these nodes, which its annotation says."""
    metadata = template.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    added = [node for node in dict.fromkeys(nodes) if node not in avoided_by(annotations)]
    if not added:
        return template
    affinity = template["spec"].get("affinity") or {}
    of_nodes = affinity.get("nodeAffinity") or {}
    required = of_nodes.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    without = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in added]
    terms = [
        {**term, "matchFields": [*(term.get("matchFields") or []), *without]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    required = {**required, "nodeSelectorTerms": terms}
    of_nodes = {**of_nodes, "requiredDuringSchedulingIgnoredDuringExecution": required}
    said = ",".join([*avoided_by(annotations), *added])
    return {
        **template,
        "metadata": {**metadata, "annotations": {**annotations, AVOIDS: said}},
        "spec": {**template["spec"], "affinity": {**affinity, "nodeAffinity": of_nodes}},
    }


def avoided_by(annotations: Any) -> Sequence[str]:
    """Nodes, of a job's or a pod's annotations."""
    return [node for node in str((annotations or {}).get(AVOIDS, "")).split(",") if node]


def unfit_node(pod: Any) -> str | None:
    """The node of a pod that ended because that node is unfit; ``pod`` is the Kubernetes client's."""
    for status in pod.status.container_statuses or []:
        if status.state.terminated and status.state.terminated.exit_code == UNFIT:
            return str(pod.spec.node_name)
    return None


def is_lost(pod: Any, now: datetime) -> bool:
    """Whether nobody is there to end a pod that is to end, so that no other can take its place.

    Its node does not answer: such pods count as not ready though their containers, by their node's last word, run.
    """
    if pod.metadata.deletion_timestamp is None or not pod.spec.node_name:
        return False
    grace = timedelta(seconds=pod.metadata.deletion_grace_period_seconds or 0)
    if now > pod.metadata.deletion_timestamp + _LATE:
        return True
    runs = any(status.state.running for status in pod.status.container_statuses or [])
    ready = any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or [])
    return runs and not ready and now > pod.metadata.deletion_timestamp - grace + _SILENT
