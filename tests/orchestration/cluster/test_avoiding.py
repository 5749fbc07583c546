"""Where pods go and stay: nodes that are avoided, nodes that are gone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client as k8s

from orchestration.cluster.avoiding import avoided_by, avoiding, is_lost, settled, unfit_node
from orchestration.job import UNFIT

NODES = {"fast-1": "fast", "fast-2": "fast", "slow-1": "slow", "slow-2": "slow"}
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def takes(template: Any, node: str) -> bool:
    """Whether the scheduler may put a pod there, as the Kubernetes documentation has it: one term must hold, of a term
    all."""
    affinity = template["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    seen = {"kind": NODES[node], "metadata.name": node}
    asked = [
        [*term.get("matchExpressions", []), *term.get("matchFields", [])] for term in required["nodeSelectorTerms"]
    ]
    return any(
        all((seen[each["key"]] in each["values"]) == (each["operator"] == "In") for each in term) for term in asked
    )


kinds = st.sampled_from(["fast", "slow"])
terms = st.builds(
    lambda kind, operator: {"matchExpressions": [{"key": "kind", "operator": operator, "values": [kind]}]},
    kinds,
    st.sampled_from(["In", "NotIn"]),
)
affinities = st.one_of(
    st.none(),
    st.lists(terms, min_size=1, max_size=2).map(
        lambda chosen: {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": chosen}},
            "podAffinity": {},
        }
    ),
)


@given(affinity=affinities, first=st.sets(st.sampled_from(sorted(NODES))), then=st.sets(st.sampled_from(sorted(NODES))))
def test_pods_go_wherever_they_went_before_but_to_the_nodes_avoided(
    affinity: Any, first: set[str], then: set[str]
) -> None:
    template: dict[str, Any] = {"metadata": {"annotations": {"a": "b"}}, "spec": {"containers": []}}
    if affinity:
        template["spec"]["affinity"] = affinity
    changed = avoiding(avoiding(template, sorted(first)), sorted(then))
    assert set(avoided_by(changed["metadata"]["annotations"])) == first | then
    assert changed["metadata"]["annotations"]["a"] == "b"
    for node in NODES:
        assert takes(changed, node) == (takes(template, node) and node not in first | then)


def test_a_pod_stays_on_a_node_that_is_gone_as_long_as_its_settings_say() -> None:
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}
    tolerations = settled({"spec": {"tolerations": [own]}}, 60, [])["spec"]["tolerations"]
    assert own in tolerations
    others = [each for each in tolerations if each != own]
    assert [(each["key"], each["tolerationSeconds"]) for each in others] == [("node.kubernetes.io/not-ready", 60)]
    everything = {"spec": {"tolerations": [{"operator": "Exists"}]}}
    assert settled(everything, 60, []) == everything


def a_pod(**changes: Any) -> k8s.V1Pod:
    """On a node, running, ready; or as changed."""
    known = {"ready": "True", "deleted_s": None, "grace_s": 300, "node": "node3", "ended": None, **changes}
    state = k8s.V1ContainerState(running=k8s.V1ContainerStateRunning())
    if known["ended"] is not None:
        state = k8s.V1ContainerState(terminated=k8s.V1ContainerStateTerminated(exit_code=known["ended"]))
    gone = known["deleted_s"]
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(
            # Of the API: when the grace will have passed.
            deletion_timestamp=None if gone is None else NOW - timedelta(seconds=gone - known["grace_s"]),
            deletion_grace_period_seconds=None if gone is None else known["grace_s"],
        ),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="c")], node_name=known["node"]),
        status=k8s.V1PodStatus(
            conditions=[k8s.V1PodCondition(type="Ready", status=known["ready"])],
            container_statuses=[
                k8s.V1ContainerStatus(name="c", image="", image_id="", ready=True, restart_count=0, state=state)
            ],
        ),
    )


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({}, False),
        ({"ready": "False"}, False),  # nobody has asked it to end
        ({"deleted_s": 250}, False),  # it saves its last checkpoint
        ({"deleted_s": 10, "ready": "False"}, False),  # its node may yet answer
        ({"deleted_s": 40, "ready": "False"}, True),
        ({"deleted_s": 40, "ready": "False", "ended": 0}, False),  # its node has answered, and clears up
        ({"deleted_s": 361}, True),  # a minute after all that it was given
        ({"deleted_s": 400, "node": None}, False),  # never on one
    ],
)
def test_a_pod_is_lost_where_its_node_does_not_end_it(changes: dict[str, Any], lost: bool) -> None:
    assert is_lost(a_pod(**changes), NOW) is lost


def test_a_node_is_unfit_where_a_pod_says_so_by_its_exit_code() -> None:
    assert unfit_node(a_pod(ended=UNFIT)) == "node3"
    assert unfit_node(a_pod(ended=1)) is None
    assert unfit_node(a_pod()) is None
