"""Many trials on pretended nodes: API server, scheduler and operator are real, the pods start nothing."""

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from kubernetes.client.rest import RESTClientObject
from optuna.trial import TrialState

from orchestration.cluster.launcher import KubernetesLauncher
from orchestration.job import JobSpec
from orchestration.settings import PlatformSettings
from sweeps.budget import Budget
from sweeps.controller import Controller
from sweeps.interrupts import Interrupts
from sweeps.space import Space
from sweeps.storage import open_storage
from sweeps.study import REASON, Study
from tests.cluster.platform import Platform
from tests.conftest import SHARED
from tests.services import until
from tests.sweeps.simulated import Silent, trial_of

pytestmark = pytest.mark.filterwarnings("ignore")

PARALLEL = 40
FAKE = "everest.test/fake"


@pytest.fixture
def nodes(platform: Platform) -> Iterator[None]:
    add = SHARED / "cluster/fake-nodes"
    pid = Path(os.environ.get("CLUSTER_HOME", "/var/lib/testcluster")) / "run/kwok.pid"
    if not add.exists() or not pid.parent.exists():
        pytest.skip(f"no {add}, or not on the machine of its cluster: no pretended nodes")
    subprocess.run([add, "50"], check=True, capture_output=True)
    yield
    subprocess.run(["kubectl", "delete", "nodes", "-l", f"{FAKE}=true"], check=True, capture_output=True)
    os.kill(int(pid.read_text()), signal.SIGTERM)


class Pretended(KubernetesLauncher):
    """Every tenth trial's pod ends with 3."""

    def __init__(self, settings: PlatformSettings, folder: Path) -> None:
        super().__init__(settings)
        self.good, self.bad = (
            settings.model_copy(update={"pod_patch": patch_file(folder / f"{code}.yaml", code)}) for code in "03"
        )

    def submit(self, spec: JobSpec) -> None:
        self.settings = self.bad if fails(trial_of(spec)) else self.good
        super().submit(spec)


def fails(number: int) -> bool:
    return number % 10 == 7


def patch_file(file: Path, exit_code: str) -> Path:
    patch = {
        "metadata": {"annotations": {"everest.test/seconds": "4s", "everest.test/exit-code": exit_code}},
        "spec": {"nodeSelector": {FAKE: "true"}, "tolerations": [{"key": FAKE, "operator": "Exists"}]},
    }
    file.write_text(yaml.safe_dump(patch))
    return file


def value_of(number: int) -> float:
    return number / 1000


class StandIn:
    """Numbers of pods that start nothing."""

    def latest(self, name: str) -> Mapping[str, tuple[int, float]]:
        return {"val/top1": (1, value_of(int(name.rpartition("-")[2])))}

    def running(self, tag: str, value: str) -> Mapping[str, Mapping[str, tuple[int, float]]]:
        return {}

    def history(self, name: str, metric: str) -> Sequence[tuple[int, float]]:
        return []


@contextmanager
def requests() -> Iterator[Counter[str]]:
    """What this process asks the API server about PyTorchJobs, by kind of request."""
    counts: Counter[str] = Counter()
    request = RESTClientObject.request

    def counted(self: RESTClientObject, method: str, url: str, query_params: Any = None, **rest: Any) -> Any:
        if found := re.search("/pytorchjobs(/.+)?$", url):
            watching = ("watch", True) in (query_params or [])
            counts["WATCH" if watching else method if found[1] or method != "GET" else "LIST"] += 1
        return request(self, method, url, query_params=query_params, **rest)

    with patch.object(RESTClientObject, "request", counted):
        yield counts


@pytest.mark.parametrize("count", [80, pytest.param(200, marks=pytest.mark.long)])
def test_many_trials_are_accounted_for_and_watched_not_polled(
    count: int,
    platform: Platform,
    nodes: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in platform.environment.items():
        monkeypatch.setenv(name, value)
    space = Space.parse(
        {
            "name": "many", "sampler": "random", "objectives": {"val/top1": "max"},
            "finetune": {"recipe": "demo-finetune", "search": {"classify.keep_ratio": {"float": [0.2, 1.0]}}},
        }
    )  # fmt: skip
    settings = PlatformSettings(work=tmp_path, cpu="1", memory="1Gi", shm="1Mi")
    study = Study.begin("many", space, open_storage(settings))
    launcher = Pretended(settings, tmp_path)
    controller = Controller(study, launcher, StandIn(), Budget(PARALLEL, count), Silent(), same_fault=count)
    with requests() as asked:
        controller.run(lambda controller: None, Interrupts())
    with capsys.disabled():
        print(f"\n  {count} trials in {controller.books.spent.active_s:.0f} s; PyTorchJob requests: {dict(asked)}")

    trials = study.trials()
    assert [trial.number for trial in trials] == list(range(count))
    for trial in trials:
        assert trial.state == (TrialState.FAIL if fails(trial.number) else TrialState.COMPLETE)
        if fails(trial.number):
            assert "exit code 3" in trial.user_attrs[REASON]
        else:
            assert trial.value == value_of(trial.number)
    until(lambda: not any(each.startswith("many-") for each in platform.names("pytorchjobs")), "jobs to go")
    until(lambda: not any(each.startswith("many-") for each in platform.names("configmaps")), "ConfigMaps to go")
    assert asked["WATCH"] >= 1
    assert asked["LIST"] + asked["WATCH"] < 20
    assert asked["GET"] <= 5 * count  # a name looked up before its job is made and removed, a uid, an end
