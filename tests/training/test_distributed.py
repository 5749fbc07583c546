"""Several processes: they begin together, leave together, and where one fails alone the others do not wait for it."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from everest.errors import AgreedError, EverestError, Unfit, UsageError
from everest.pulse import Pulse
from everest.training import distributed
from everest.training.distributed import Process
from orchestration.job import AGAIN
from orchestration.pod.member import END
from tests.conftest import tiny
from tests.integration.command import environment
from tests.services import until
from tests.training.faulty import LINE, LOST

ROOT = Path(__file__).resolve().parents[2]
_HANGS_S = 600  # destroy_process_group and blocked collectives would take an hour

_POD = """
import sys
from orchestration.pod.output import Output
from orchestration.pod.standstill import Bounds
from orchestration.pod.torchrun import torchrun
from orchestration.pod.watching import Watch
from tests.training.faulty import run_faulty
watch = Watch(Bounds(0, 0, 0), print)
with Output() as output:
    code = torchrun(["--standalone", "--nproc-per-node", "2"], run_faulty, sys.argv[1:], 3600, output, watch)
sys.exit(code)
"""
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.training.faulty"]


def started(launcher: list[str], fault: str, synthetic: Path, work: Path) -> "subprocess.Popen[str]":
    work.mkdir()
    (work / "recipe.yaml").write_text(tiny("pretrain", synthetic, **{"optim.micro_batch": 2}).to_yaml())
    return subprocess.Popen(
        [sys.executable, *launcher, fault, "pretrain", "--recipe", str(work / "recipe.yaml")],
        cwd=ROOT, env=environment(work), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_process_that_fails_alone_says_its_line_and_is_gone_though_the_others_wait_for_ever(
    synthetic: Path, tmp_path: Path
) -> None:
    """What torchrun does then, which is to kill them after half a minute, is not waited for."""
    run = started(_TORCHRUN, "blocked", synthetic, tmp_path / "run")
    family = psutil.Process(run.pid)
    try:
        assert run.stdout
        assert any(f"everest: {LINE}\n" in line for line in run.stdout)
        until(
            lambda: len([each for each in family.children() if each.status() != psutil.STATUS_ZOMBIE]) == 1, "its end"
        )
    finally:
        for process in [*family.children(recursive=True), family]:
            process.kill()
        run.communicate()


@pytest.mark.parametrize(
    ("fault", "code"), [("failed", EverestError.exit_code), ("killed", AGAIN), ("unfit", Unfit.exit_code)]
)
def test_the_pod_of_a_process_that_fails_alone_ends_with_what_happened(
    synthetic: Path, tmp_path: Path, fault: str, code: int
) -> None:
    run = started(["-c", _POD], fault, synthetic, tmp_path / "run")
    said, _ = run.communicate(timeout=_HANGS_S)
    assert run.returncode == code, said
    line = {
        "failed": f"[rank 1] everest: {LINE}\n",
        "killed": "rank 1 was ended by SIGKILL (out of memory?)\n",
        "unfit": f"[rank 1] everest: rank 1 on {os.uname().nodename} failed the check before the first step: a matrix",
    }
    assert line[fault] in said
    assert "Traceback" not in said


def test_processes_that_wait_for_a_lost_one_are_ended_when_they_are_told(synthetic: Path, tmp_path: Path) -> None:
    """Though nothing that Python does with a signal reaches them: they are within a collective."""
    run = started(["-c", _POD], "lost", synthetic, tmp_path / "run")
    assert run.stdout
    assert any(f"[rank 1] {LOST}\n" in line for line in run.stdout)
    run.send_signal(END)
    said, _ = run.communicate(timeout=_HANGS_S)
    assert run.returncode == 128 + END, said


def test_the_group_knows_its_device_and_waits_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: dict[str, Any] = {}
    store = torch.distributed.HashStore()
    monkeypatch.setattr(distributed, "rendezvous", lambda *_, **__: iter([(store, 3, 8)]))
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **more: joined.update(more))
    device = torch.device("cuda", 3)
    assert distributed._join(device, Pulse()).rank == 3
    assert (joined["device_id"], joined["timeout"]) == (device, timedelta(minutes=10))


def test_what_one_process_cannot_do_none_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's answer is given; what travels is all there is to see of it here."""
    store = torch.distributed.HashStore()
    process = Process(0, 2, torch.device("cpu"), store)
    for error, raised in ((UsageError("no list"), UsageError), (EverestError("no room"), AgreedError)):
        other = (isinstance(error, UsageError), str(error))
        monkeypatch.setattr(Process, "gather", lambda _self, mine, other=other: [mine, other])
        for number in range(2):
            store.set(f"done-{number}/1", "here")
        with pytest.raises(raised, match=str(error)):
            process.together(lambda: "done")


def test_alone_nothing_waits_and_errors_stay_what_they_are() -> None:
    process = Process(0, 1, torch.device("cpu"))
    assert process.together(lambda: 5) == 5
    with pytest.raises(FileNotFoundError):
        process.together(lambda: os.stat("nowhere"))
