"""The processes that load: forked from a clean server, since the threads of training do not survive a fork.

The server imports what workers need while the training process does its own imports.
"""

import multiprocessing
import os
import signal
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

PREFETCH = 2  # batches a worker is ahead


def worker_count(wanted: int) -> int:
    """No more than there are cores: what is loaded does not depend on it."""
    return min(wanted, os.cpu_count() or 1)


def worker_context() -> BaseContext:
    multiprocessing.set_forkserver_preload(["everest.data.loader"])
    return multiprocessing.get_context("forkserver")


def start_early() -> None:
    """Starts the server now, so that its imports overlap with those of the caller."""
    worker_context()
    forkserver.ensure_running()


def ignore_interrupts(*_: int) -> None:
    """Ctrl-C is the training process's business, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
