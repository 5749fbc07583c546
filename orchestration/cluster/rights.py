"""What everest-jobs and a sweep's controller do in a cluster, and therefore may; the chart's roles say the same."""

from collections.abc import Mapping, Sequence

#: By API group and resource.
NEEDED: Mapping[tuple[str, str], Sequence[str]] = {
    ("kubeflow.org", "pytorchjobs"): ("create", "get", "list", "watch", "delete"),
    ("trainer.kubeflow.org", "trainjobs"): ("create", "get", "list", "watch", "delete"),
    ("trainer.kubeflow.org", "trainingruntimes"): ("create", "get", "patch", "delete"),
    ("", "configmaps"): ("create", "get", "patch", "delete"),
    ("", "pods"): ("get", "list"),
    ("", "pods/log"): ("get", "list"),
    ("", "events"): ("list",),
    ("batch", "jobs"): ("list",),
}


def rules() -> list[dict[str, list[str]]]:
    """As a Role has them."""
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
        for (group, resource), verbs in NEEDED.items()
    ]
