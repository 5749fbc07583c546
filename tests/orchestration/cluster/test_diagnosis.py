"""Why a job does not start, from what a cluster says in each case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes import client as k8s

from everest.errors import EverestError
from orchestration.cluster.checks import operator_among
from orchestration.cluster.diagnosis import Capacity, Diagnosis, crew, diagnose, ending, not_taken_up
from orchestration.cluster.pytorchjob import PyTorchJobs

NOW = datetime(2026, 1, 1, tzinfo=UTC)


GPU = "nvidia.com/gpu"


def pod(asked: int = 8, gpu: str = GPU, **status: Any) -> k8s.V1Pod:
    resources = k8s.V1ResourceRequirements(requests={gpu: str(asked), "cpu": "32"})
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
        (
            [unscheduled("0/1 are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1")], [],
            None, "no node takes the pod: 0/1 are available: 1 Insufficient cpu; it asks for 32 cpu (EVEREST_CPU)",
            False,
        ),
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


@pytest.mark.parametrize(
    ("phases", "policy", "said"),
    [
        ("RRRR", {"minReplicas": 2}, ""),
        ("RRRS", {"minReplicas": 2}, ""),
        ("RRP-", {"minReplicas": 2}, "2 of 4 pods run"),
        ("RPP", {"minReplicas": 2}, "waits for pods: 1 of at least 2 run"),
        ("RRTP", {"minReplicas": 3}, "waits for pods: 2 of at least 3 run"),
        ("RRP", None, "waits for pods: 2 of 4 run"),
        ("", None, "waits for pods: 0 of 4 run"),
    ],
)
def test_how_many_pods_a_job_lacks_is_said(phases: str, policy: dict[str, int] | None, said: str) -> None:
    """R runs, S has succeeded, P is pending, T runs and is being ended."""
    names = {"R": "Running", "S": "Succeeded", "P": "Pending", "T": "Running", "-": "Failed"}
    pods = [pod() for _ in phases]
    for each, phase in zip(pods, phases, strict=True):
        each.status.phase = names[phase]
        each.metadata.deletion_timestamp = NOW if phase == "T" else None
    how = {"elasticPolicy": {"nProcPerNode": 1, **policy}} if policy else {"nprocPerNode": "1"}
    spec = {"pytorchReplicaSpecs": {"Worker": {"replicas": 4}}, **how}
    assert crew(PyTorchJobs().shape({"spec": spec}), pods).lack == said


def terminated(code: int, reason: str) -> k8s.V1ContainerState:
    return k8s.V1ContainerState(terminated=k8s.V1ContainerStateTerminated(exit_code=code, reason=reason))


def ended_pod(code: int, reason: str) -> k8s.V1Pod:
    status = k8s.V1ContainerStatus(
        name="pytorch", image="everest:9", image_id="", ready=False, restart_count=0, state=terminated(code, reason)
    )
    return pod(container_statuses=[status])


def evicted_pod() -> k8s.V1Pod:
    gone = pod(reason="Evicted", message="The node was low on resource: ephemeral-storage. ")
    gone.status.phase = "Failed"
    return gone


def told(reason: str, message: str, kind: str = "PyTorchJob", minutes: int = 0, count: int = 1) -> k8s.CoreV1Event:
    """As a real cluster's operator and kubelet wrote them."""
    return k8s.CoreV1Event(
        metadata=k8s.V1ObjectMeta(name="e"), reason=reason, message=message, count=count,
        involved_object=k8s.V1ObjectReference(name="run" if kind == "PyTorchJob" else "run-worker-0", kind=kind),
        last_timestamp=NOW - timedelta(minutes=minutes),
    )  # fmt: skip


EXITED = "Error pod run-worker-0 container pytorch exitCode: {} terminated message: "


@pytest.mark.parametrize(
    ("pods", "events", "said", "code", "outside"),
    [
        ([ended_pod(137, "OOMKilled")], [], "run-worker-0 was OOMKilled: it needs more memory", 137, True),
        ([ended_pod(3, "Error")], [], "run-worker-0 ended with exit code 3 (Error)", 3, False),
        ([ended_pod(143, "Error")], [], "run-worker-0 ended with exit code 143 (Error)", 143, True),
        ([evicted_pod()], [], "run-worker-0 was evicted: The node was low on resource: ephemeral-storage.", None, True),
        ([], [told("OOMKilled", EXITED.format(137), count=4)], "run-worker-0 was OOMKilled, 4 times: it", 137, True),
        ([], [told("Error", EXITED.format(2))], "run-worker-0 ended with exit code 2 (Error)", 2, False),
        (
            [], [told("Error", EXITED.format(2)), told("OOMKilled", EXITED.format(137), minutes=5)],
            "run-worker-0 ended with exit code 2 (Error)", 2, False,
        ),
        (
            [], [told("Evicted", "The node was low on resource: memory.", "Pod"),
                 told("Error", EXITED.format(1), minutes=1)],
            "run-worker-0 was evicted: The node was low on resource: memory.", None, True,
        ),
    ],
)  # fmt: skip
def test_how_a_pod_ended_is_said_also_when_it_is_gone(
    pods: list[Any], events: list[Any], said: str, code: int | None, outside: bool
) -> None:
    others = [told("ExitedWithCode", "Pod: lab.run-worker-0 exited with code 137"), told("Started", "", "Pod")]
    found = ending(pods, [*others, *events])
    assert found is not None
    assert found.reason.startswith(said)
    assert (found.exit_code, found.outside) == (code, outside)


def test_a_job_without_an_ended_pod_has_no_ending() -> None:
    assert (
        ending([pod(), ended_pod(0, "Completed")], [told("SuccessfulCreatePod", "Created pod: run-worker-0")]) is None
    )


def test_a_job_that_nobody_takes_up_is_said_after_a_while() -> None:
    job: dict[str, Any] = {"metadata": {"creationTimestamp": "2025-12-31T23:59:50Z", "namespace": "lab"}}
    assert not_taken_up(PyTorchJobs(), job, [], NOW) is None
    found = not_taken_up(PyTorchJobs(), job, [], NOW + timedelta(seconds=15))
    assert found is not None
    assert found.reason.startswith(
        "nobody has taken it up in 25 s: does Kubeflow's training operator run, and look after lab?"
    )
    assert not_taken_up(PyTorchJobs(), job, [pod()], NOW + timedelta(minutes=9)) is None
    job["status"] = {"conditions": [{"type": "Created", "status": "True"}]}
    found = not_taken_up(PyTorchJobs(), job, [], NOW + timedelta(seconds=50))
    assert found is not None
    assert found.reason.startswith("no pods were made for it in 60 s")
    found = not_taken_up(PyTorchJobs(), job, [], NOW + timedelta(days=2))
    assert found is not None
    assert found.reason.startswith("no pods were made for it in 172810 s")
    job["status"]["conditions"].append({"type": "Restarting", "status": "True"})
    assert not_taken_up(PyTorchJobs(), job, [], NOW + timedelta(days=2)) is None


def operator(ready: int | None, *words: str, image: str = "kubeflow/training-operator:v1-9") -> k8s.V1Deployment:
    container = k8s.V1Container(name="operator", image=image, command=["/manager"], args=list(words))
    template = k8s.V1PodTemplateSpec(spec=k8s.V1PodSpec(containers=[container]))
    return k8s.V1Deployment(
        metadata=k8s.V1ObjectMeta(name="training-operator", namespace="kubeflow"),
        spec=k8s.V1DeploymentSpec(selector=k8s.V1LabelSelector(), template=template),
        status=k8s.V1DeploymentStatus(ready_replicas=ready),
    )


def test_an_operator_that_takes_nothing_up_is_said() -> None:
    other = operator(1, image="registry.example.org/other:2")
    assert operator_among([other, operator(1)], "lab", PyTorchJobs()) == "v1-9"
    assert operator_among([operator(1, "--namespace=lab")], "lab", PyTorchJobs()) == "v1-9"
    assert (
        operator_among(
            [operator(1, image="registry.example.org:5000/training-operator@sha256:ab")], "lab", PyTorchJobs()
        )
        == "sha256:ab"
    )
    with pytest.raises(EverestError, match="training-operator of kubeflow has no ready replica"):
        operator_among([other, operator(None)], "lab", PyTorchJobs())
    with pytest.raises(EverestError, match="looks after elsewhere alone, not lab"):
        operator_among([operator(1, "--namespace=elsewhere")], "lab", PyTorchJobs())
    assert "version unknown" in operator_among([other], "lab", PyTorchJobs())
