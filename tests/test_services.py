"""What the tests lean on themselves."""

import subprocess
import sys

import psutil

from tests.services import nothing_left_running, until


def test_what_a_test_leaves_running_is_ended_wherever_it_has_moved_to() -> None:
    sleeping = "import time; time.sleep(600)"
    parent = (
        "import subprocess, sys; "
        f"process = subprocess.Popen([sys.executable, '-c', {sleeping!r}], start_new_session=True, stdout=-3); "
        "print(process.pid)"
    )
    with nothing_left_running():
        said = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, check=True).stdout
        orphan = psutil.Process(int(said))
        assert orphan.is_running()
    until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "its end")
