"""torchrun with exit codes that tell what happened.

``python -m orchestration.launch FILE GRACE PROCESSES …`` is a job of this machine: it writes its exit code to FILE.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from everest.errors import EverestError, UsageError
from everest.files import write_text
from everest.progress import start_logging
from orchestration.job import AGAIN

log = logging.getLogger(__name__)


def torchrun(arguments: Sequence[str], grace_s: float) -> int:
    """0, the code of the EverestError that ended it, 128 + the signal that did, or AGAIN. Lines begin with their rank.

    How many processes and how they meet is said by torchrun's own flags, or PET_* variables.
    """
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # torchrun's own account of what is said here in a line
    os.environ["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = "[rank ${rank}] "
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(["--tee", "3", "--shutdown-timeout", str(max(1, round(grace_s))), *arguments])
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        for code in (EverestError.exit_code, UsageError.exit_code):
            if code in codes:
                return code
        log.warning("%s", "; ".join(_fate(rank, failure.exitcode) for rank, failure in failed.failures.items()))
        return AGAIN
    except Exception as error:  # the other pods did not come
        log.warning("torchrun: %s: %s", type(error).__name__, error)
        return AGAIN
    return 0


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


def main() -> None:
    file, grace, processes, *command = sys.argv[1:]
    start_logging()
    if processes == "1":
        code = alone(command)
    else:
        code = torchrun(["--standalone", "--nproc-per-node", processes, *command], float(grace))
    write_text(Path(file), str(code))
    sys.exit(code)


if __name__ == "__main__":
    main()
