"""What NCCL's flight recorder writes is asked for, found and kept. Without a GPU: gloo records, a thread listens."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from orchestration.job import AGAIN
from orchestration.pod.output import Output
from orchestration.pod.recorder import ask, recording, traces
from orchestration.pod.standstill import Bounds
from orchestration.pod.torchrun import alone
from orchestration.pod.watching import Watch
from tests.services import free_port

_RECORDS = """
import torch, torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace_file
dist.init_process_group("gloo", rank=0, world_size=1)
dist.all_reduce(torch.ones(3))
_dump_fr_trace_file(0)
"""


def test_torch_writes_its_traces_where_they_are_looked_for_and_they_are_kept_however_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: dict[str, bytes] = {}
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    watch = Watch(Bounds(steps=1, least_s=600, slow_s=600), kept.__setitem__)
    assert alone(["-c", f"{_RECORDS}\nimport os; os.kill(os.getpid(), 6)"], Output(), watch) == AGAIN
    ((name, trace),) = kept.items()
    assert name.startswith("stalls/nccl-")
    assert name.endswith("-0")
    assert b"gloo:all_reduce" in trace


def test_who_stands_still_is_asked_by_the_pipe_that_nccl_listens_at(tmp_path: Path) -> None:
    """As ProcessGroupNCCL's monitor does: it makes PREFIX + rank + .pipe, and writes PREFIX + rank when told to."""
    names = recording(tmp_path)
    pipe = f"{names['TORCH_NCCL_DEBUG_INFO_PIPE_FILE']}3.pipe"
    os.mkfifo(pipe)

    def listen() -> None:
        with open(pipe, "rb") as asked:
            asked.read(1)
        Path(f"{names['TORCH_FR_DUMP_TEMP_FILE']}3").write_bytes(b"collectives")

    listening = threading.Thread(target=listen)
    listening.start()
    while not traces(tmp_path):  # until it listens
        ask(tmp_path, [0, 3])
    listening.join()
    assert traces(tmp_path) == {3: b"collectives"}


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no NCCL")
def test_the_installed_torch_reads_variables_of_these_names() -> None:
    found = subprocess.run(
        ["grep", "--only-matching", "--text", "--no-filename", "--extended-regexp", "TORCH_(NCCL|FR)_[A-Z_]+",
         *map(str, Path(torch.__file__).parent.glob("lib/libtorch_c*.so"))],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert set(recording(Path("x"))) <= set(found)
