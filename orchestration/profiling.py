"""``everest-jobs profile``: a trace of a running job's next steps, which a browser opens."""

import argparse
import gzip
import json
import sys
import time
import uuid
import zlib
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from everest.errors import EverestError, UsageError
from everest.files import write_bytes
from everest.profile_files import answers, question
from orchestration.job import Launcher, RunFolder, Unreachable
from orchestration.launchers import open_launcher
from orchestration.settings import PlatformSettings

_LOOK_EVERY_S = 1.0
_TOO_LATE = "that was before the trace was there"
_FETCHES = 3  # of what came only in part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="so many (5)")
    parser.add_argument("--rank", type=int, default=0, metavar="N", help="of the process (0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="for the trace (NAME-rank-N-TIME.json.gz)")


def profile(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    out = options.out or Path(f"{options.job}-rank-{options.rank}-{datetime.now():%Y%m%dT%H%M%S}.json.gz")
    if options.steps < 1:
        raise UsageError(f"--steps {options.steps}: must be at least 1")
    if out.exists():
        raise UsageError(f"--out {out} is there already; choose another")
    trace = profiled(open_launcher(options.launcher, settings), options.job, options.rank, options.steps)
    write_bytes(out, trace)
    print(f"https://ui.perfetto.dev opens it: {out.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    print(out)


def profiled(launcher: Launcher, name: str, rank: int, steps: int) -> bytes:
    """Chrome's trace format, gzipped, of the next so many steps of a process.

    Raises UsageError where the job has no such process, EverestError where it is not running, ends or begins again
    before they are done, or cannot profile them.
    """
    _require_running(launcher, name, "nothing is profiled")
    folder, asked = launcher.folder_of(name, rank), uuid.uuid4().hex[:12]
    if folder.read(question(rank)) is not None:
        raise EverestError(f"somebody profiles rank {rank} of {name} already; try again, or another --rank")
    print(f"waits for {steps} steps of rank {rank} of {name}; Ctrl-C gives up, and the job goes on", file=sys.stderr)
    folder.write(question(rank), json.dumps({"id": asked, "steps": steps}).encode())
    try:
        while folder.read(question(rank)) is not None:
            _require_running(launcher, name, _TOO_LATE)
            time.sleep(_LOOK_EVERY_S)
        return _answer(folder, name, rank, asked)
    except Unreachable:
        _require_running(launcher, name, _TOO_LATE)
        raise
    except BaseException:
        with suppress(EverestError):
            folder.remove(question(rank))
        raise


def _require_running(launcher: Launcher, name: str, otherwise: str) -> None:
    status = launcher.status(name)
    if status.state != "running":
        why = f": {status.reason}" if status.reason else ""
        raise EverestError(f"{name} is {status.state}{why}; {otherwise}")


def _answer(folder: RunFolder, name: str, rank: int, asked: str) -> bytes:
    trace, refusal = answers(rank, asked)
    for _ in range(_FETCHES):
        content = folder.read(trace)
        if content is None:
            said = folder.read(refusal) or f"rank {rank} has begun again meanwhile; try again".encode()
            raise EverestError(f"{name}: {said.decode()}")
        if _is_whole(content):
            folder.remove(trace)
            return content
    raise EverestError(f"{name}: {trace} came only in part, {_FETCHES} times; try again")


def _is_whole(content: bytes) -> bool:
    try:
        return bool(gzip.decompress(content))
    except (OSError, EOFError, zlib.error):
        return False
