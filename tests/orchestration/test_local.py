"""Jobs of this machine that come and go while somebody looks."""

import json
import os
import threading
from pathlib import Path

import psutil
import pytest

from everest.errors import UsageError
from everest.files import write_text
from orchestration.job import LogsMissing
from orchestration.local import LocalLauncher
from orchestration.settings import PlatformSettings

JOBS = 400
ENDED = {"pid": 2**22 - 1, "started": 1.0, "group": "sweep"}


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
    here = {"pid": os.getpid(), "started": psutil.Process().create_time(), "group": "", "processes": 2}
    write_text(tmp_path / "job" / "job.json", json.dumps(here))
    with pytest.raises(UsageError, match="--rank 99: job has the ranks 0 to 1"):
        next(launcher.logs("job", rank=99))
    with pytest.raises(LogsMissing, match=r"log.txt is gone, and what job said with it"):
        next(launcher.logs("job"))
    with (tmp_path / "job" / "log.txt").open("w", buffering=1) as log:
        log.write("[rank 1] one\n[rank 1] tw")
        log.flush()
        lines = launcher.logs("job", rank=1, follow=True)
        assert next(lines) == "[rank 1] one"
        threading.Timer(0.5, log.write, ["o\n"]).start()
        assert next(lines) == "[rank 1] two"
    write_text(tmp_path / "job" / "job.json", json.dumps({**here, "started": 1.0}))
    (tmp_path / "job" / "log.txt").unlink()
    assert "log.txt is gone" in launcher.status("job").reason
