"""Why a job does not start, from what a cluster says in each case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes import client as k8s

from orchestration.cluster.diagnosis import Capacity, Diagnosis, diagnose

NOW = datetime(2026, 1, 1, tzinfo=UTC)


GPU = "nvidia.com/gpu"


def pod(asked: int = 8, gpu: str = GPU, **status: Any) -> k8s.V1Pod:
    resources = k8s.V1ResourceRequirements(requests={gpu: str(asked)})
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="run-worker-0", namespace="lab", creation_timestamp=NOW - timedelta(minutes=1)),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="pytorch", resources=resources)]),
        status=k8s.V1PodStatus(phase="Pending", **status),
    )


def unscheduled(message: str, asked: int = 8, gpu: str = GPU) -> k8s.V1Pod:
    condition = k8s.V1PodCondition(type="PodScheduled", status="False", reason="Unschedulable", message=message)
    return pod(asked, gpu, conditions=[condition])


def waiting(reason: str, message: str) -> k8s.V1Pod:
    state = k8s.V1ContainerState(waiting=k8s.V1ContainerStateWaiting(reason=reason, message=message))
    status = k8s.V1ContainerStatus(
        name="pytorch", image="everest:9", image_id="", ready=False, restart_count=0, state=state
    )
    return pod(container_statuses=[status])


def event(reason: str, message: str, name: str = "run") -> k8s.CoreV1Event:
    return k8s.CoreV1Event(
        metadata=k8s.V1ObjectMeta(name="e"), involved_object=k8s.V1ObjectReference(name=name), reason=reason,
        message=message,
    )  # fmt: skip


GPUS = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available: 2 No preemption"


@pytest.mark.parametrize(
    ("pods", "events", "capacity", "said", "hopeless"),
    [
        ([unscheduled(GPUS)], [], Capacity(8, 4), "not enough nvidia.com/gpu: 8 asked, 4 free on the emptiest", False),
        ([unscheduled(GPUS, 64)], [], Capacity(8, 4), "64 asked, but no node has more than 8", True),
        ([unscheduled(GPUS)], [], Capacity(0, 0), "not enough nvidia.com/gpu: 8 asked, 0 free", False),
        ([unscheduled(GPUS)], [], None, "not enough nvidia.com/gpu: 8 asked; it starts when others end", False),
        (
            [unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {gpu: only}. preemption: 0/1")], [],
            None, "no node takes the pod: 0/1 nodes are available: 1 node(s) had untolerated taint {gpu: only}; a tol",
            False,
        ),
        (
            [unscheduled('persistentvolumeclaim "videos" not found. preemption: 0/1')], [], None,
            "the volume claim videos does not exist in lab (EVEREST_DATA)", True,
        ),
        ([unscheduled("0/1 nodes are available: 1 Insufficient cpu.")], [], None, "no node takes the pod: 0/1", False),
        (
            [waiting("ImagePullBackOff", 'Back-off pulling image "everest:9"')], [], None,
            'the image everest:9 cannot be pulled: Back-off pulling image "everest:9" (EVEREST_IMAGE', True,
        ),
        (
            [waiting("CreateContainerConfigError", 'secret "s3" not found')], [], None,
            "the Secret s3 does not exist in lab", True,
        ),
        (
            [pod()],
            [event("FailedMount", 'MountVolume.SetUp failed for volume "data"\n: no such\nfile', "run-worker-0")],
            None, 'a volume cannot be mounted: MountVolume.SetUp failed for volume "data" : no such', False,
        ),
        (
            [], [event("FailedCreatePod", 'Error creating: pods "run-worker-0" is forbidden: exceeded quota: gpus, '
                       "requested: requests.nvidia.com/gpu=8, used: 0, limited: 4")],
            None, "over the quota: gpus, requested: requests.nvidia.com/gpu=8, used: 0, limited: 4", False,
        ),
        (
            [], [event("FailedCreatePod", 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted"')],
            None, 'its pods may not be created: pods "x" is forbidden: violates PodSecurity "restricted"', True,
        ),
    ],
)  # fmt: skip
def test_every_hindrance_is_a_sentence(
    pods: list[Any], events: list[Any], capacity: Capacity | None, said: str, hopeless: bool
) -> None:
    found = diagnose(pods, events, capacity, NOW, GPU)
    assert found is not None
    assert said in found.reason
    assert "\n" not in found.reason
    assert found.hopeless is hopeless


def test_gpus_of_another_name_are_named_as_the_cluster_does() -> None:
    gpu = "nvidia.com/mig-1g.10gb"
    message = f"0/2 nodes are available: 2 Insufficient {gpu}."
    found = diagnose([unscheduled(message, 8, gpu)], [], Capacity(7, 7), NOW, gpu)
    assert found == Diagnosis(f"not enough {gpu}: 8 asked, but no node has more than 7 (EVEREST_GPUS)", True)


def test_a_pod_on_its_way_is_not_hindered() -> None:
    scheduled = k8s.V1PodCondition(type="PodScheduled", status="True")
    creating = waiting("ContainerCreating", "")
    young = pod(conditions=[scheduled])
    young.metadata.creation_timestamp = creating.metadata.creation_timestamp = NOW
    mounting = event("FailedMount", "not yet", "run-worker-0")
    assert diagnose([creating, young], [mounting], None, NOW, GPU) is None
    assert isinstance(diagnose([pod()], [mounting], None, NOW, GPU), Diagnosis)
