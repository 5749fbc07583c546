"""The processes that load: forked from a clean server, since the threads of training do not survive a fork.

The server imports what workers need while the training process does its own imports.
"""

import multiprocessing
import signal
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Literal

from everest.config import Experiment
from everest.cores import local_processes, usable_cores
from everest.pulse import can_be_asked


def worker_count(wanted: int | Literal["auto"]) -> int:
    """Of this process. What is loaded does not depend on it.

    ``auto``: this process's share of the usable cores, at least 1. A number is taken, but no more than there are cores.
    """
    cores = usable_cores()
    return max(1, cores // local_processes()) if wanted == "auto" else min(wanted, cores)


def worker_context(config: Experiment) -> BaseContext:
    needed = ["everest.data.loader"]
    if config.stage == "finetune" and config.augment.rand_augment:
        needed.append("everest.data.rand_augment")
    multiprocessing.set_forkserver_preload(needed)
    return multiprocessing.get_context("forkserver")


def start_early(config: Experiment) -> None:
    """Starts the server now, so that its imports overlap with those of the caller."""
    worker_context(config)
    forkserver.ensure_running()


def begin_worker(*_: int) -> None:
    """Ctrl-C is the training process's business, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    can_be_asked("decoding worker")
