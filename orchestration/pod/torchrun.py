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
from contextlib import ExitStack, closing
from functools import partial
from importlib import import_module
from pathlib import Path

import psutil

from everest.errors import EverestError, Unfit, UsageError
from everest.files import write_bytes, write_text
from everest.leave import leave
from everest.progress import start_logging
from everest.pulse import FOLDER, pulse_here
from orchestration.job import AGAIN, EXIT_CODE, FAULTY, PROCESS
from orchestration.pod.news import JobNews, LocalFacts, last_line
from orchestration.pod.output import Output
from orchestration.pod.recorder import recording
from orchestration.pod.secrets import hiding, named
from orchestration.pod.standstill import Bounds
from orchestration.pod.watching import Watch
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

_SAYS, _CODE = "says-", "code-"  # of a process: its pipe, its exit code
_HEAVY = ["everest.training.run", "everest.training.local", "orchestration.pod.rank"]  # what every process needs


def torchrun(
    flags: Sequence[str],
    entry: Callable[..., int],
    arguments: Sequence[str],
    grace_s: float,
    output: Output,
    watch: Watch,
) -> int:
    """Runs ``entry`` in processes as torchrun does: how many and how they meet is said by its flags or PET_* variables.

    They are forked from a server that has imported torch once for all of them. ``entry`` returns an exit code.
    Returns 0, the code of the EverestError that ended it, 128 + the signal that did, FAULTY or AGAIN. What they say
    goes to ``output``, by pipes: torchrun would write all of it to the disk first. Lines begin with their rank.
    """
    load()
    multiprocessing.set_forkserver_preload(_HEAVY)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    shutdown_s = str(max(1, round(grace_s)))
    options = parse_args(["--shutdown-timeout", shutdown_s, *flags, entry.__name__])
    if options.standalone:
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", uuid.uuid4().hex
    config, _, _ = config_from_args(options)
    config.start_method = "forkserver"
    first = options.node_rank * config.nproc_per_node
    with tempfile.TemporaryDirectory() as notes, watch.over(Path(notes)) as stalled, ExitStack() as pipes:
        for local in range(config.nproc_per_node):
            pipes.enter_context(output.pipe(Path(notes) / f"{_SAYS}{local}", f"[rank {first + local}] "))
        try:
            elastic_launch(config, _noting)(notes, entry, *arguments)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            noted = {int(said) for file in Path(notes).glob(f"{_CODE}*") if (said := file.read_text())}
            for code in (Unfit.exit_code, EverestError.exit_code, UsageError.exit_code):
                if code in noted:
                    return code
            if not stalled():
                log.warning("%s", "; ".join(_fate(rank, failure.exitcode) for rank, failure in failed.failures.items()))
            return FAULTY if FAULTY in noted else AGAIN
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


def _noting(notes: str, entry: Callable[..., int], *arguments: str) -> None:
    """In a process: torchrun tells of the first one that failed, and which that is is chance."""
    says = os.open(Path(notes) / f"{_SAYS}{os.environ['LOCAL_RANK']}", os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(says, descriptor)
    os.environ |= {FOLDER: notes, **recording(Path(notes))}
    pulse_here()
    try:
        code = entry(*arguments)
    except Exception:
        traceback.print_exc()
        code = AGAIN
    if code:
        (Path(notes) / f"{_CODE}{os.environ['RANK']}").write_text(str(code))
    leave(code)


def alone(command: Sequence[str], output: Output, watch: Watch) -> int:
    """One process needs no torchrun: the same exit codes and the same lines, without a second start of torch."""
    with tempfile.TemporaryDirectory() as notes, watch.over(Path(notes)) as stalled:
        there = {**os.environ, FOLDER: notes, **recording(Path(notes))}
        child = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=there
        )
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda signum, _: child.send_signal(signum))
        assert child.stdout
        with child.stdout, output.listening(child.stdout.fileno(), "[rank 0] "):
            code = child.wait()
    if code < 0:
        if not stalled():
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


def _keep(folder: Path, name: str, content: bytes) -> None:
    write_bytes(folder / name, content)


def main() -> None:
    folder, grace, processes, *arguments = sys.argv[1:]
    here = psutil.Process()
    write_text(Path(folder) / PROCESS, json.dumps({"pid": here.pid, "started": here.create_time()}))
    with Output(hiding(named(os.environ))) as output:
        start_logging()
        settings = PlatformSettings.load()
        with closing(JobNews(Path(folder).name, settings.user, LocalFacts(Path(folder)))) as news:
            keep = partial(_keep, Path(folder))
            watch = Watch(Bounds.of(settings), keep, news.stalled)
            if processes == "1":
                code = alone(["-m", "everest", *arguments], output, watch)
            else:
                flags = ["--standalone", "--nproc-per-node", processes]
                code = torchrun(flags, run_everest, arguments, float(grace), output, watch)
            if code < 128:  # else somebody ended it
                news.ended(code, last_line(output.last_lines()))
    write_text(Path(folder) / EXIT_CODE, str(code))
    sys.exit(code)


if __name__ == "__main__":
    main()
