"""Processes are asked what they do, whatever they do, and none outlives its run."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from everest.pulse import FOLDER, pulses
from orchestration.pod.stacks import end_what_is_left, ended, family, stacks
from tests.services import until

_PARENT = """
import subprocess, sys, time
from everest.pulse import can_be_asked, pulse_here
pulse = pulse_here()
pulse.step(7)
child = subprocess.Popen([sys.executable, "-c", '''
from everest.pulse import can_be_asked
import time
can_be_asked("decoding worker")
def decodes_for_ever():
    while True:
        pass
decodes_for_ever()
'''])
def waits_for_its_worker():
    child.wait()
waits_for_its_worker()
"""


#: Whether py-spy is installed, which is nothing that is needed.
PY_SPY = Path(sys.executable).with_name("py-spy").exists()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", _PARENT], env={**os.environ, FOLDER: str(tmp_path), "RANK": "3"})
    until(
        lambda: len(list(tmp_path.glob("stacks-*"))) == 2 and all(f.stat().st_size for f in tmp_path.iterdir()), "both"
    )
    yield process
    for each in family(process.pid):
        each.kill()
    process.wait()


def test_stacks_of_a_process_and_of_what_it_has_started(parent: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    beat = pulses(tmp_path)[3]
    assert (beat.pid, beat.step, beat.phase) == (parent.pid, 7, "forward")
    until(lambda: "decodes_for_ever" in stacks(tmp_path, parent.pid), "the child to have begun")
    said = stacks(tmp_path, parent.pid)
    assert f"training process, pid {parent.pid}: S (sleeping)" in said
    assert "waits_for_its_worker" in said
    parent.send_signal(signal.SIGSTOP)
    said, of_child = stacks(tmp_path, parent.pid).split("decoding worker")
    assert f"training process, pid {parent.pid}: T (stopped)" in said
    assert "decodes_for_ever" in of_child
    assert ("waits_for_its_worker" if PY_SPY else "it does not answer") in said


def test_of_what_cannot_be_asked_others_say_what_they_see(parent: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    _, worker = family(parent.pid)
    (tmp_path / f"stacks-{worker.pid}").unlink()
    until(lambda: not PY_SPY or "decodes_for_ever" in stacks(tmp_path, parent.pid), "the child to have begun")
    assert ("another process, pid" in stacks(tmp_path, parent.pid)) == PY_SPY


def test_who_is_left_of_a_process_that_was_killed_is_ended_and_nobody_else(
    parent: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    _, worker = family(parent.pid)
    (tmp_path / f"stacks-{os.getpid()}").touch()  # a number used again by a process that has nothing to do with it
    parent.kill()
    parent.wait()
    assert not ended(worker.pid)
    end_what_is_left(tmp_path)
    psutil.wait_procs([worker], timeout=600)
    assert ended(worker.pid)
