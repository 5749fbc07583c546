"""NCCL's flight recorder: the last collectives of each process, written where one hangs, for torch's fr_trace to read.

torch itself records them, and writes them where a collective exceeds its time. Somebody who finds that a process
stands still before that asks by a pipe, at which a thread of NCCL's listens that needs neither Python nor the GPU.
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TRACE, _PIPE = "nccl-trace-", "nccl-ask-"  # of a rank
_ANSWER_S, _LOOK_S, _SETTLED_S = 10.0, 0.05, 0.3


def recording(folder: Path) -> dict[str, str]:
    """Environment of processes whose traces go to ``folder``, as torch 2.15 reads it. How many collectives it records,
    2000 unless TORCH_FR_BUFFER_SIZE says otherwise, is left to it."""
    return {
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(folder / _TRACE),
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(folder / _PIPE),
    }


def ask(folder: Path, ranks: Iterable[int]) -> None:
    """Returns when those that use NCCL have written their traces, or do not answer."""
    waited = {_trace(folder, rank) for rank in ranks if _asked(folder / f"{_PIPE}{rank}.pipe")}
    sizes, settled_at, deadline = dict[Path, int](), 0.0, time.monotonic() + _ANSWER_S
    while waited and time.monotonic() < deadline:
        now = {file: file.stat().st_size for file in waited if file.exists()}
        if now != sizes:
            sizes, settled_at = now, time.monotonic() + _SETTLED_S
        if all(now.get(file) for file in waited) and time.monotonic() > settled_at:
            return
        time.sleep(_LOOK_S)


def traces(folder: Path) -> dict[int, bytes]:
    """By rank, all that were written."""
    files = {int(file.name.removeprefix(_TRACE)): file for file in folder.glob(f"{_TRACE}*")}
    return {rank: content for rank, file in sorted(files.items()) if (content := file.read_bytes())}


def _trace(folder: Path, rank: int) -> Path:
    return folder / f"{_TRACE}{rank}"


def _asked(pipe: Path) -> bool:
    """False where nobody listens."""
    with suppress(OSError):
        opened = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        try:
            return os.write(opened, b"1") > 0
        finally:
            os.close(opened)
    return False
