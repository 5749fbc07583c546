"""Nodes that are sick or dead: pretended ones, and the real one with its kubelet stopped."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from orchestration.job import UNFIT
from tests.cluster.platform import Platform
from tests.cluster.pretended import RUNS, PretendedNode, preferring
from tests.cluster.runs import checkpoints, mlflow_runs, tiny, wait_for_step
from tests.services import until

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and boto3 warn of themselves

UNFIT_STATE = {"terminated": {"exitCode": UNFIT, "reason": "Error"}}


@pytest.fixture(scope="module", autouse=True)
def _tended(platform: Platform) -> Iterator[None]:
    """Somebody looks after the jobs."""
    tending = platform.start("tend")
    yield
    tending.send_signal(signal.SIGINT)
    _, err = tending.communicate(timeout=60)
    assert tending.returncode == 130, err


@pytest.fixture
def prefer(platform: Platform, tmp_path: Path) -> dict[str, str]:
    """Settings of jobs that go to a pretended node while there is one."""
    patch = preferring(Path(platform.environment["EVEREST_POD_PATCH"]), tmp_path / "patch.yaml")
    return {"EVEREST_GPUS": "1", "EVEREST_POD_PATCH": str(patch), "EVEREST_GRACE_S": "30", "EVEREST_NODE_LOST_S": "5"}


def node_of(platform: Platform, job: str) -> str:
    if not (pod := platform.pod(job)):
        return ""
    return platform.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")


def test_a_node_that_fails_every_pod_is_avoided_from_then_on_and_named(
    platform: Platform, prefer: dict[str, str]
) -> None:
    with PretendedNode("sick", lambda _: UNFIT_STATE).there() as sick:
        done = platform.jobs("submit", "demo-finetune", "--name", "avoiding", *tiny(4), "--wait", **prefer)
        assert done.code == 0, done.err
        assert 1 <= len(sick.seen) <= 3
        assert node_of(platform, "avoiding") != "sick"
    assert "avoids   sick\n" in platform.jobs("status", "avoiding").out
    _, (run,) = mlflow_runs(platform, "avoiding")
    assert run.data.tags["everest.avoids"] == "sick"


@pytest.mark.long
def test_a_job_goes_on_elsewhere_where_its_node_is_gone(platform: Platform, prefer: dict[str, str]) -> None:
    with PretendedNode("dying", lambda _: RUNS).there() as dying:
        waiting = platform.start("submit", "demo-finetune", "--name", "orphan", *tiny(4), "--wait", **prefer)
        until(lambda: dying.seen, "a pod on that node")
        dying.die()
        _, err = waiting.communicate(timeout=600)
        assert waiting.returncode == 0, err
        assert node_of(platform, "orphan") != "dying"
    assert checkpoints(platform, "orphan")


@contextmanager
def kubelet_stopped() -> Iterator[None]:
    """The test cluster's own."""
    file = Path(os.environ.get("CLUSTER_HOME", "/var/lib/testcluster")) / "run/kubelet.pid"
    if not file.exists():
        pytest.skip("not on the machine of the test cluster: its kubelet cannot be stopped")
    kubelet = psutil.Process(int(file.read_text()))
    kubelet.suspend()
    try:
        yield
    finally:
        kubelet.resume()


@pytest.mark.long
def test_a_job_goes_on_elsewhere_where_the_kubelet_of_its_node_is_stopped(
    platform: Platform, prefer: dict[str, str]
) -> None:
    """Elsewhere is a pretended node; when that one goes too, the job ends where it began."""
    arguments = tiny(3000, **{"keep.checkpoint_steps": 50})
    waiting = platform.start("submit", "demo-finetune", "--name", "stopped", *arguments, "--wait", **prefer)
    wait_for_step(platform, "stopped", 60)
    with PretendedNode("spare", lambda _: RUNS).there() as spare, kubelet_stopped():
        until(lambda: spare.seen, "a pod on the other node", every=1)
        assert node_of(platform, "stopped") == "spare"
    _, err = waiting.communicate(timeout=900)
    assert waiting.returncode == 0, err
    assert checkpoints(platform, "stopped")[-1].startswith("step-00003000")
