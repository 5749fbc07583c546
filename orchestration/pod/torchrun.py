"""torchrun with exit codes that tell what happened.

``python -m orchestration.pod.torchrun FOLDER GRACE PROCESSES …`` is a job of this machine, of the ``everest`` command
with the arguments that follow: it writes to FOLDER which process it is, and at the end its exit code.
"""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import psutil

from everest.errors import EverestError, UsageError
from everest.files import write_text
from everest.leave import leave
from everest.progress import start_logging
from orchestration.job import AGAIN, EXIT_CODE, PROCESS

log = logging.getLogger(__name__)

_HEAVY = ["everest.training.run", "everest.training.local", "orchestration.pod.rank"]  # what every process needs


def torchrun(flags: Sequence[str], entry: Callable[..., int], arguments: Sequence[str], grace_s: float) -> int:
    """Runs ``entry`` in processes as torchrun does: how many and how they meet is said by its flags or PET_* variables.

    They are forked from a server that has imported torch once for all of them. ``entry`` returns an exit code.
    Returns 0, the code of the EverestError that ended it, 128 + the signal that did, or AGAIN. Lines begin with their
    rank.
    """
    load()
    os.environ["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = "[rank ${rank}] "
    multiprocessing.set_forkserver_preload(_HEAVY)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    shutdown_s = str(max(1, round(grace_s)))
    options = parse_args(["--tee", "3", "--shutdown-timeout", shutdown_s, *flags, entry.__name__])
    if options.standalone:
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", uuid.uuid4().hex
    config, _, _ = config_from_args(options)
    config.start_method = "forkserver"
    with tempfile.TemporaryDirectory() as codes:
        try:
            elastic_launch(config, _noting)(codes, entry, *arguments)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            noted = {int(file.read_text()) for file in Path(codes).iterdir()}
            for code in (EverestError.exit_code, UsageError.exit_code):
                if code in noted:
                    return code
            log.warning("%s", "; ".join(_fate(rank, failure.exitcode) for rank, failure in failed.failures.items()))
            return AGAIN
        except Exception as error:  # the other pods did not come
            log.warning("torchrun: %s: %s", type(error).__name__, error)
            return AGAIN
    return 0


def load() -> None:
    """Imports torch's, which takes seconds; its own account of what is said here in a line is not heard."""
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(os.environ["LOGLEVEL"])
    import_module("torch.distributed.run")


def _noting(codes: str, entry: Callable[..., int], *arguments: str) -> None:
    """In a process: torchrun tells of the first one that failed, and which that is is chance."""
    try:
        code = entry(*arguments)
    except Exception:
        traceback.print_exc()
        code = AGAIN
    if code:
        (Path(codes) / os.environ["RANK"]).write_text(str(code))
    leave(code)


def alone(command: Sequence[str]) -> int:
    """One process needs no torchrun: the same exit codes and the same lines, without a second start of torch."""
    child = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda signum, _: child.send_signal(signum))
    assert child.stdout
    for line in child.stdout:
        print(f"[rank 0] {line}", end="", flush=True)
    code = child.wait()
    if code < 0:
        log.warning("%s", _fate(0, code))
        return AGAIN
    return code


def _fate(rank: int, code: int) -> str:
    if code >= 0:
        return f"rank {rank} ended with {code}"
    kind = signal.Signals(-code).name
    return f"rank {rank} was ended by {kind}" + (" (out of memory?)" if kind == "SIGKILL" else "")


def run_everest(*arguments: str) -> int:
    """The ``everest`` command's exit code."""
    from everest.cli import command

    try:
        return command(arguments)
    except SystemExit as ended:  # of argparse
        return int(ended.code or 0)


def main() -> None:
    folder, grace, processes, *arguments = sys.argv[1:]
    here = psutil.Process()
    write_text(Path(folder) / PROCESS, json.dumps({"pid": here.pid, "started": here.create_time()}))
    start_logging()
    if processes == "1":
        code = alone(["-m", "everest", *arguments])
    else:
        code = torchrun(["--standalone", "--nproc-per-node", processes], run_everest, arguments, float(grace))
    write_text(Path(folder) / EXIT_CODE, str(code))
    sys.exit(code)


if __name__ == "__main__":
    main()
