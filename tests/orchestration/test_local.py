"""Jobs of this machine that come and go while somebody looks."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from everest.config import Experiment
from everest.errors import UsageError
from everest.files import write_text
from orchestration.job import JobSpec, LogsMissing, NameInUseError
from orchestration.local import LocalLauncher
from orchestration.log import Wanted
from orchestration.settings import PlatformSettings
from orchestration.webhook import WEBHOOK
from tests.conftest import tiny
from tests.services import HANGS_S, nothing_left_running, until
from tests.webhook import WebhookServer

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* still running:ResourceWarning")

JOBS = 400
ENDED = {"created": 1.0, "group": "sweep"}


def test_jobs_that_are_removed_while_they_are_listed_are_left_out(tmp_path: Path) -> None:
    launcher = LocalLauncher(PlatformSettings(work=tmp_path))
    for number in range(JOBS):
        for name, text in {"job.json": json.dumps(ENDED), "exit-code": "0", "log.txt": ""}.items():
            write_text(tmp_path / f"job-{number}" / name, text)
    with launcher.follow("sweep") as jobs:
        assert jobs.states() == {f"job-{number}": "succeeded" for number in range(JOBS)}
        removing = threading.Thread(target=lambda: [launcher.cancel(f"job-{number}") for number in range(JOBS)])
        removing.start()
        while removing.is_alive():
            assert set(jobs.states().values()) <= {"succeeded"}
            assert len(launcher.list()) <= JOBS
        assert jobs.states() == {}


def test_logs_say_what_is_not_there_and_give_a_line_once_it_is_whole(tmp_path: Path) -> None:
    launcher = LocalLauncher(PlatformSettings(work=tmp_path))
    here = {"pid": os.getpid(), "started": psutil.Process().create_time()}
    write_text(tmp_path / "job" / "process.json", json.dumps(here))
    write_text(tmp_path / "job" / "job.json", json.dumps({"created": 1.0, "group": "", "processes": 2}))
    with pytest.raises(UsageError, match="--rank 99: job has the ranks 0 to 1"):
        next(launcher.logs("job", Wanted(rank=99)))
    with pytest.raises(LogsMissing, match=r"log.txt is gone, and what job said with it"):
        next(launcher.logs("job"))
    with (tmp_path / "job" / "log.txt").open("w", buffering=1) as log:
        log.write("[rank 1] one\n[rank 1] tw")
        log.flush()
        lines = launcher.logs("job", Wanted(rank=1), follow=True)
        assert next(lines) == "[rank 1] one"
        threading.Timer(0.5, log.write, ["o\n"]).start()
        assert next(lines) == "[rank 1] two"
    write_text(tmp_path / "job" / "process.json", json.dumps({**here, "started": 1.0}))
    (tmp_path / "job" / "log.txt").unlink()
    assert "log.txt is gone" in launcher.status("job").reason


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobSpec:
    """Of a run that ends at once, with a line."""
    monkeypatch.setenv("EVEREST_TRACKER", "none")
    return JobSpec(Experiment().override({"name": "job", "data.train": tmp_path / "nowhere.csv"}), group="sweep")


def test_whoever_waits_for_jobs_is_told_of_their_ends_with_numbers_or_a_line(
    tmp_path: Path, spec: JobSpec, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    launcher = LocalLauncher(PlatformSettings(work=tmp_path, user="ada"))
    good = tiny("pretrain", videos, name="good", **{"optim.steps": 1})
    with WebhookServer() as server:
        (tmp_path / ".env").write_text(f"{WEBHOOK}={server.address}\n")
        launcher.submit(JobSpec(good))
        launcher.submit(replace(spec, group=""))
        finished, failed = server.hears("finished"), server.hears("failed")
    numbers = json.loads((tmp_path / "good/result.json").read_text())["metrics"]
    assert (finished["run"], finished["user"], finished["numbers"]) == ("good", "ada", numbers)
    assert finished["what"] == f"finished: train/loss {numbers['train/loss']:.4g}"
    assert failed["run"] == "job"
    assert failed["what"].startswith(f"failed: {tmp_path}/nowhere.csv does not exist")
    assert len(server.told) == 2


def killed_while_submitting(work: Path, spec: JobSpec, moment: str) -> None:
    """Before the job's process is there, or right after."""
    program = f"""
import os, signal, subprocess
from pathlib import Path
from everest.config import Experiment
from orchestration.job import JobSpec
from orchestration.local import LocalLauncher
from orchestration.log import Wanted
from orchestration.settings import PlatformSettings
begin = subprocess.Popen
def killed(*arguments, **more):
    {moment == "after"} and begin(*arguments, **more)
    os.kill(os.getpid(), signal.SIGKILL)
subprocess.Popen = killed
experiment = Experiment.load(Path("spec.yaml"))
LocalLauncher(PlatformSettings(work=Path("."))).submit(JobSpec(experiment, group="sweep"))
"""
    (work / "spec.yaml").write_text(spec.experiment.to_yaml())
    killed = subprocess.run([sys.executable, "-c", program], cwd=work, timeout=HANGS_S, check=False)
    assert killed.returncode == -signal.SIGKILL


def test_a_job_whose_submitter_was_killed_right_after_its_start_is_known(tmp_path: Path, spec: JobSpec) -> None:
    launcher = LocalLauncher(PlatformSettings(work=tmp_path))
    with nothing_left_running():
        killed_while_submitting(tmp_path, spec, "after")
        with launcher.follow("sweep") as jobs:
            assert set(jobs.states()) == {"job"}
        assert launcher.status("job").state in {"pending", "running"}
        with pytest.raises(NameInUseError, match="job is going on here already; everest-jobs cancel job ends it"):
            launcher.submit(spec)
        said = list(launcher.logs("job", follow=True))
        assert any("nowhere.csv does not exist" in line for line in said)
        until(lambda: launcher.status("job").exit_code == 2, "its end")
        killed_while_submitting(tmp_path, spec, "after")
        launcher.cancel("job")
        assert launcher.list() == []
        assert not any("orchestration.pod.torchrun" in " ".join(process.info["cmdline"] or []) and
                       str(tmp_path) in " ".join(process.info["cmdline"] or [])
                       for process in psutil.process_iter(["cmdline"]))  # fmt: skip


def test_a_job_whose_submitter_was_killed_right_before_its_start_is_known_and_can_be_continued(
    tmp_path: Path, spec: JobSpec
) -> None:
    launcher = LocalLauncher(PlatformSettings(work=tmp_path))
    with nothing_left_running():
        killed_while_submitting(tmp_path, spec, "before")
        status = launcher.status("job")
        assert (status.state, status.interrupted, status.reason) == ("failed", True, "it was killed")
        launcher.submit(spec)
        assert any("nowhere.csv does not exist" in line for line in launcher.logs("job", follow=True))
