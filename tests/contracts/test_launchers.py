"""What every launcher promises, kept by this machine and by a real cluster."""

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from orchestration.job import JobSpec, Launcher, NameInUseError, Needs, UnknownJobError
from orchestration.local import LocalLauncher
from orchestration.log import Wanted, stamp
from orchestration.profiling import profiled
from orchestration.settings import PlatformSettings
from orchestration.watch import JobFailed, last_line, wait
from tests.cluster.platform import require_operator
from tests.cluster.runs import tiny
from tests.services import until

pytestmark = pytest.mark.filterwarnings("ignore")

Spec = Callable[..., JobSpec]


@pytest.fixture(scope="module", params=["local", "pytorchjob", "trainjob"])
def launcher(
    request: pytest.FixtureRequest, videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Launcher, Path]]:
    """Of jobs of two processes, and where these find their videos."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "local":
            patch.setenv("EVEREST_TRACKER", "none")
            patch.setenv("OMP_NUM_THREADS", "1")
            yield LocalLauncher(PlatformSettings(work=tmp_path_factory.mktemp("work"), processes=2, grace_s=60)), videos
            return
        platform = request.getfixturevalue("platform")
        for name, value in platform.environment.items():
            patch.setenv(name, value)
        from orchestration.cluster.launcher import KubernetesLauncher

        require_operator(request.param)
        prefix = f"{platform.prefix}/{request.param}"  # what one has run is not for another to find finished
        yield KubernetesLauncher(PlatformSettings(gpus=2, operator=request.param, s3_prefix=prefix)), Path("/data")


@pytest.fixture
def spec(launcher: tuple[Launcher, Path]) -> Spec:
    data = launcher[1]

    def make(name: str, steps: int, **changes: object) -> JobSpec:
        words = tiny(steps, **{"data.train": data / "train.csv", "data.val": data / "val.csv", **changes})
        settings = {
            key.removeprefix("--"): yaml.safe_load(value) for key, value in zip(words[::2], words[1::2], strict=True)
        }
        return JobSpec(
            Experiment.load("demo-pretrain").override({"name": name, **settings}), submission=str(time.time())
        )

    return make


def test_a_dry_run_shows_the_whole_experiment_and_changes_nothing(launcher: Any, spec: Spec) -> None:
    text = launcher[0].dry_run(spec("contract-dry", 7))
    assert "contract-dry" in text
    assert re.search(r"^ *steps: 7$", text, re.M)
    assert "contract-dry" not in {job.name for job in launcher[0].list()}


def test_a_job_nobody_started_is_unknown(launcher: Any) -> None:
    for call in (launcher[0].status, launcher[0].cancel, lambda name: list(launcher[0].logs(name))):
        with pytest.raises(UnknownJobError, match=r"no job 'contract-nobody' in .*; everest-jobs list shows"):
            call("contract-nobody")


def test_a_job_is_cancelled_with_a_checkpoint_and_goes_on_under_its_name(launcher: Any, spec: Spec) -> None:
    jobs, name = launcher[0], "contract"
    long = spec(name, 400)
    jobs.submit(long)
    with pytest.raises(NameInUseError, match=r"contract is \w+ .*already; everest-jobs cancel contract ends it"):
        jobs.submit(long)
    assert name in {job.name for job in jobs.list()}
    until(lambda: re.search(r"contract \d\d+/400", last_line(jobs, name)), "some steps")
    assert jobs.status(name).state == "running"
    assert jobs.status(name).nodes
    assert jobs.needs()[name] == Needs([], "")
    followed = jobs.logs(name, Wanted(rank=0), follow=True)
    assert next(followed).startswith("[rank 0] ")
    trace = json.loads(gzip.decompress(profiled(jobs, name, rank=1, steps=2)))
    assert {each["name"] for each in trace["traceEvents"]} >= {"ProfilerStep#1", "ProfilerStep#2"}
    assert trace["distributedInfo"]["rank"] == 1
    with pytest.raises(UsageError, match="--rank 2: contract has the ranks 0 to 1"):
        profiled(jobs, name, rank=2, steps=2)
    with pytest.raises(
        EverestError, match=r"contract: \d+ steps of the run are left; 999, and one before them, do not"
    ):
        profiled(jobs, name, rank=0, steps=999)
    jobs.cancel(name)
    said = list(followed)
    assert any("stopped at step" in line and "saved" in line for line in said), said

    jobs.submit(long)
    assert wait(jobs, name).state == "succeeded"
    assert name not in jobs.needs(), "it is done"
    lines = list(jobs.logs(name))
    assert any(re.search(r"contract continues at step \d\d+", line) for line in lines)
    assert any("contract 400/400" in line for line in jobs.logs(name, Wanted(rank=0)))
    (first,) = (line for line in lines if line.startswith("--- start 1: contract"))
    (second,) = (line for line in lines if line.startswith("--- start 2: contract"))
    before, after = lines[lines.index(first) : lines.index(second)], lines[lines.index(second) :]
    assert any("stopped at step" in line for line in before)
    assert list(jobs.logs(name, Wanted(start=1))) == before
    assert list(jobs.logs(name, Wanted(start=2))) == after
    only = list(jobs.logs(name, Wanted(rank=0, start=2)))
    assert only == [line for line in after if line.startswith("[rank 0]")] != []
    assert list(jobs.logs(name, Wanted(since=stamp(datetime.now(UTC))))) == []
    with pytest.raises(UsageError, match="--restart 3: contract has the starts 1 to 2"):
        list(jobs.logs(name, Wanted(start=3)))
    for rank in (2, -1):
        with pytest.raises(UsageError, match=f"--rank {rank}: contract has the ranks 0 to 1"):
            list(jobs.logs(name, Wanted(rank)))
    done = next(job for job in jobs.list() if job.name == name)
    assert (done.state, done.reason) == ("succeeded", "")
    with pytest.raises(EverestError, match="contract is succeeded; nothing is profiled"):
        profiled(jobs, name, rank=0, steps=2)


def test_a_job_that_fails_ends_the_waiting_with_what_it_said_last(
    launcher: Any, spec: Spec, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = launcher[0]
    jobs.submit(spec("contract-fails", 20, **{"data.train": "/nowhere.csv"}))
    with pytest.raises(JobFailed, match="was started wrongly") as error:
        wait(jobs, "contract-fails")
    assert error.value.exit_code == 2
    assert "contract-fails" not in {job.name for job in jobs.list() if job.state != "cancelling"}
    assert "[rank 0] everest: /nowhere.csv does not exist; give a list file" in capfd.readouterr().err
