"""A run that stands still is noticed, named and begun again; one that is only slow is left alone."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from safetensors.torch import load_file

from everest.config import Experiment
from everest.training.saved import SavedCheckpoints
from orchestration.job import AGAIN
from orchestration.pod.output import Output
from orchestration.pod.standstill import Bounds
from orchestration.pod.torchrun import alone
from orchestration.pod.watching import Watch
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings, sqlite_uri
from tests.conftest import tiny
from tests.integration.command import environment
from tests.orchestration.pod.faulty_pod import STOPPED_S, VALIDATED_S
from tests.s3_proxy import S3Proxy
from tests.services import HANGS_S, experiments, free_port, s3_settings, until
from tests.webhook import SECRET, WebhookServer

ROOT = Path(__file__).resolve().parents[3]
NODE = "node-7"
PATIENT = {
    "stall_steps": 2.0,
    "stall_s": 8.0,
    "stall_slow_s": 600.0,
    "patience_s": 300,
}  # a step takes milliseconds here


def pod(
    config: Experiment, settings: PlatformSettings, folder: Path, *faults: str, processes: int = 2, webhook: str = "",
    **place: str,
) -> tuple[int, str]:  # fmt: skip
    """Its exit code and what it said, without the times."""
    folder.mkdir()
    (folder / "experiment.yaml").write_text(config.to_yaml())
    where = {
        "PET_NODE_RANK": "0", "PET_NNODES": "1", "PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": str(free_port()),
        "EVEREST_NODE": NODE, **place,
    }  # fmt: skip
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", "tests.orchestration.pod.faulty_pod", str(folder), *faults],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=HANGS_S, check=False,
            env=environment(folder, **{**settings.environment(), "EVEREST_USER": "ada"}, **where, EVEREST_GPUS="0",
                            EVEREST_SUBMISSION="first", EVEREST_JOB=config.name,
                            EVEREST_WEBHOOK=webhook, PET_NPROC_PER_NODE=str(processes)),
        )  # fmt: skip
    return done.returncode, re.sub(r"(?m)^\S+Z ", "", (folder / "log.txt").read_text())


def weights(settings: PlatformSettings, run: str, folder: Path) -> dict[str, object]:
    folder.mkdir()
    store = S3Store(settings, run)
    SavedCheckpoints(store, folder).fetch_newest(folder)
    store.close()
    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.long
def test_a_pod_in_which_one_process_after_the_other_stands_still_ends_with_the_weights_of_one_where_none_does(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what only takes its time, a process that is stopped for a while and a slow validation, is left alone."""
    settings = s3_settings(monkeypatch, **PATIENT)
    assert STOPPED_S < settings.stall_s < VALIDATED_S
    config = tiny(
        "finetune", synthetic, **{"optim.micro_batch": 2, "optim.steps": 24, "evaluate.every_epochs": 100,
        "keep.checkpoint_steps": 1, "data.workers": 1, "data.time_limit": 20},
    )  # fmt: skip
    whole = config.override({"name": "whole"})
    faults = ["pauses:1:3", "loops:1:5", "stops:0:8", "dies:1:11", "deadlocks:1:14"]
    code, said = pod(config, settings, tmp_path / "faulty", *faults)
    assert code == 0, said
    assert pod(whole, settings, tmp_path / "whole")[0] == 0

    lines = re.findall(r"ERROR (rank .*)", said)
    assert lines[::2] == lines[1::2]  # before all that is known of it, and after
    looped, stopped, starved = lines[::2]
    found = (
        r"rank {} on {} stands still: in step {}, {}, for \d+ s( where a step takes \S+ s)?; 1 others of the pod wait"
    )
    assert re.match(found.format(1, NODE, 5, "forward"), looped)
    assert re.match(found.format(0, NODE, 8, "forward"), stopped)
    assert stopped.endswith("its process is stopped, as by SIGSTOP")
    assert re.match(found.format(1, NODE, r"1\d", "data"), starved)
    assert said.count("starting again from the newest checkpoint") == len(faults) - 1
    assert "rank 1 was ended by SIGKILL" in said

    store = S3Store(settings, config.name)
    kept = sorted(key for key in store.list() if key.startswith("stalls/"))
    reports = [store.read(key) or "" for key in kept]
    store.close()
    assert [report.splitlines()[0] for report in reports] == [looped, stopped, starved]
    for report in reports:
        assert all(line in said for line in report.splitlines()[3:])
    assert "goes_round_and_round" in reports[0]
    assert "decoding worker, pid" in reports[0]
    assert re.search(r"training process, pid \d+: T \(stopped\)", reports[1])
    assert "waits_for_a_lock_that_nobody_gives_back" in reports[2]

    assert_same_weights(settings, config, whole, tmp_path)


@pytest.mark.long
def test_of_two_pods_the_one_with_a_process_that_stands_still_names_it_and_both_go_on(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_settings(monkeypatch, **PATIENT)
    config = tiny(
        "pretrain", synthetic, **{"optim.micro_batch": 2, "optim.steps": 12, "keep.checkpoint_steps": 1},
    )  # fmt: skip
    whole = config.override({"name": "whole"})
    assert pod(whole, settings, tmp_path / "whole")[0] == 0

    def one_of_two(number: int) -> tuple[int, str]:
        place = {"PET_NODE_RANK": str(number), "EVEREST_NODES": "2", "EVEREST_POD_IP": f"127.0.0.{number + 1}"}
        return pod(config, settings, tmp_path / f"pod-{number}", "loops:1:5", processes=1, **place,
                   EVEREST_NODE=f"node-{number}")  # fmt: skip

    with ThreadPoolExecutor() as pods:
        (first, waited), (second, looped) = pods.map(one_of_two, range(2))
    assert (first, second) == (0, 0), waited + looped
    assert re.search(r"ERROR rank 1 on node-1 stands still: in step 5, forward, for \d+ s", looped)
    assert "stands still" not in waited
    for said in (waited, looped):
        assert said.count("starting again from the newest checkpoint") == 1
    assert_same_weights(settings, config, whole, tmp_path)


@pytest.mark.long
def test_a_pod_whose_s3_answers_slower_than_it_may_stand_still_is_left_alone(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: S3Proxy
) -> None:
    settings = s3_settings(monkeypatch, proxy.address, **PATIENT)
    config = tiny("pretrain", synthetic, **{"optim.micro_batch": 2, "optim.steps": 6, "keep.checkpoint_steps": 1})
    with ThreadPoolExecutor() as pods:
        running = pods.submit(pod, config, settings, tmp_path / "pod")
        until(lambda: proxy.asked["PutObject"] >= 10 or running.done(), "a first checkpoint")
        proxy.slow_s = 1.5 * settings.stall_s
        code, said = running.result()
    assert code == 0, said
    assert "stands still" not in said
    assert "starting again" not in said


def assert_same_weights(settings: PlatformSettings, config: Experiment, whole: Experiment, folder: Path) -> None:
    expected, ours = (weights(settings, run.name, folder / f"weights-{run.name}") for run in (whole, config))
    for name, tensor in expected.items():
        assert tensor.equal(ours[name]), name  # type: ignore[attr-defined]


def test_where_it_stands_still_twice_in_one_step_the_job_fails_with_that_line_and_both_are_told(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_settings(monkeypatch, **PATIENT)
    config = tiny("pretrain", synthetic)  # saved before step 3, so that it begins with another step
    with WebhookServer() as server:
        code, said = pod(
            config, settings, tmp_path / "pod", "always-loops:0:4", processes=1, webhook=server.address
        )  # fmt: skip
    assert code == 1, said
    stalled, failed = server.told
    assert (stalled["event"], failed["event"]) == ("stalled", "failed")
    assert stalled["what"].startswith(f"rank 0 on {NODE} stands still: in step 4, forward, for")
    assert failed["what"] == f"failed: {said.splitlines()[-1].partition('everest: ')[2]}"
    assert SECRET not in said
    line = rf"\[rank 0\] everest: rank 0 on {NODE} stands still: in step 4, forward, for .*; it is the second time"
    assert re.match(line, said.splitlines()[-1])
    assert said.count("starting again from the newest checkpoint") == 1


_LOOPS = """
from everest.pulse import pulse_here
pulse = pulse_here()
for step in range(3):
    pulse.step(step)
def goes_round_and_round():
    while True:
        pass
goes_round_and_round()
"""


def test_a_single_process_of_this_machine_that_stands_still_is_ended_so_that_its_job_may_be_submitted_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVEREST_NODE", NODE)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    kept: dict[str, bytes] = {}
    assert alone(["-c", _LOOPS], Output(), Watch(Bounds(steps=1, least_s=2, slow_s=600), kept.__setitem__)) == AGAIN
    (content,) = kept.values()
    report = content.decode()
    assert re.match(rf"rank 0 on {NODE} stands still: in step 2, forward, for \d s", report)
    assert "goes_round_and_round" in report
    assert caplog.messages == [report.splitlines()[0]] * 2


_DIES = (
    """
import os, signal, subprocess, sys, time
from pathlib import Path
from everest.pulse import pulse_here
pulse_here()
worker = subprocess.Popen([sys.executable, "-c", """
    + repr("from everest.pulse import can_be_asked; can_be_asked('decoding worker'); import time; time.sleep(3600)")
    + """])
while not (Path(os.environ["EVEREST_PULSE"]) / f"stacks-{worker.pid}").exists():
    time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""
)


def test_what_a_process_has_started_that_died_without_a_word_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A decoding worker would wait for ever, with the end of the pipe that its job is read from."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert alone(["-c", _DIES], Output(), Watch(Bounds(steps=1, least_s=600, slow_s=600), lambda *_: None)) == AGAIN
    assert caplog.messages == ["rank 0 was ended by SIGKILL (out of memory?)"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # MLflow warns of itself
def test_a_job_whose_gpus_idle_and_that_is_not_to_be_saves_and_fails_with_that_line(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = sqlite_uri(tmp_path / "mlflow.db")
    settings = s3_settings(monkeypatch, mlflow_uri=tracked, idle_s=3.0, idle_end=True)
    config = tiny("pretrain", synthetic, **{"optim.micro_batch": 2, "optim.epochs": 100_000})
    line = f"the 2 GPUs of {NODE} idled: 0.4 % busy over 3s"
    with WebhookServer() as server:
        code, said = pod(config, settings, tmp_path / "idle", "idles:0:0", webhook=server.address)
        assert [(news["event"], news["what"].partition(";")[0]) for news in server.told] == [
            ("idle", line), ("failed", f"failed: {line}"),
        ]  # fmt: skip
    assert code == 1
    end = rf"\[rank 0\] everest: {line}; the job is ended \(EVEREST_IDLE_END\); stopped at step (\d+)"
    (stopped,) = re.findall(end, said)
    store = S3Store(settings, config.name)
    assert f"step-{int(stopped):08d}" in (store.read("latest.json") or "")
    store.close()
    client = mlflow.MlflowClient(tracked)
    (run,) = client.search_runs(experiments(client))
    assert (run.info.status, run.data.tags["everest.idle"]) == ("KILLED", line)
