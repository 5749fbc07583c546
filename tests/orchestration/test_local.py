"""Jobs of this machine that come and go while somebody looks."""

import json
import threading
from pathlib import Path

from everest.files import write_text
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
