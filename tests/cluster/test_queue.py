"""Kueue on a real cluster: a sweep and two people's jobs share one GPU."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.platform import Platform, run
from tests.cluster.runs import logged_steps, tiny, wait_for_step
from tests.cluster.test_sweeps import space_file
from tests.services import until

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves

API = "kueue.x-k8s.io/v1beta2"
STEPS = 1500


@pytest.fixture
def queue(platform: Platform, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings of jobs in a queue with room for one of them."""
    if run("kubectl", "get", "crd", "workloads.kueue.x-k8s.io").code:
        pytest.skip("this cluster has no Kueue")
    name = platform.namespace
    quota = {"cpu": 100, "memory": "1000Gi", "nvidia.com/gpu": 1}
    shares = [{"name": resource, "nominalQuota": amount} for resource, amount in quota.items()]
    group = {"coveredResources": list(quota), "flavors": [{"name": name, "resources": shares}]}
    spec = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [group],
    }
    objects = [
        {"kind": "ResourceFlavor", "metadata": {"name": name}},
        {"kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec},
        {"kind": "LocalQueue", "metadata": {"name": "gpus", "namespace": name}, "spec": {"clusterQueue": name}},
        {"kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": 1000},
    ]
    file = tmp_path / "queue.yaml"
    file.write_text(yaml.safe_dump_all([{"apiVersion": API, **each} for each in objects]))
    platform.kubectl("apply", "-f", file)
    yield {"EVEREST_QUEUE": "gpus", "EVEREST_GPUS": "1"}
    platform.kubectl("delete", "--wait=false", "-f", file)


def reason(platform: Platform, job: str) -> str:
    found = re.search(r"^why +(.+)$", platform.jobs("status", job).out, re.M)
    return found[1] if found else ""


@pytest.mark.long
def test_jobs_share_a_quota_and_one_that_is_preempted_goes_on_by_itself(
    platform: Platform, queue: dict[str, str], tmp_path: Path
) -> None:
    arguments = tiny(STEPS, **{"keep.checkpoint_steps": 100})
    calm = platform.start(
        "submit", "demo-finetune", "--name", "calm", *arguments, "--wait", **queue, EVEREST_USER="ada"
    )
    wait_for_step(platform, "calm", 60)
    assert platform.jobs("submit", "demo-finetune", "--name", "next", *tiny(4), **queue, EVEREST_USER="bob").code == 0
    until(lambda: "place 1 of 1" in reason(platform, "next"), "the job's place", every=1)
    assert re.fullmatch(
        r"place 1 of 1 in the queue gpus: insufficient unused quota for nvidia\.com/gpu in flavor \S+, 1 more needed",
        reason(platform, "next"),
    )

    log, space = (tmp_path / "sweep.txt").open("w"), space_file(tmp_path, "in-line", 4, [0.001])
    sweep = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "launch", str(space), "--launcher", "kubernetes"],
        env={**platform.environment, **queue, "EVEREST_USER": "ada"}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: "place 2 of 2" in reason(platform, "in-line-0"), "the place of the sweep's trial", every=2)

    priority = {"EVEREST_QUEUE_PRIORITY": platform.namespace}
    urgent = platform.jobs("submit", "demo-finetune", "--name", "urgent", *tiny(4), "--wait", **queue, **priority)
    assert urgent.code == 0, urgent.err
    _, err = calm.communicate(timeout=600)
    assert calm.returncode == 0, err
    assert re.search(r"calm suspended.*: place 1 of \d in the queue gpus, preempted by another job", err), err
    said = platform.jobs("logs", "calm", "--rank", "0").out
    assert "stopped at step" in said
    assert len(re.findall(r"calm continues at step \d+", said)) == 1
    assert logged_steps(platform, "calm") == list(range(2, STEPS + 1, 2))
    until(lambda: "succeeded" in platform.jobs("status", "next").out, "the job that waited longest", every=2)
    assert sweep.wait(600) == 0, (tmp_path / "sweep.txt").read_text()
