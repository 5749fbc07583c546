"""/dev/shm, where decoding workers put their batches: how much a run needs of it, and how much there is."""

import os
from pathlib import Path

from everest.config import Experiment
from everest.data.workers import PREFETCH, worker_count
from everest.errors import UsageError

FOLDER = Path("/dev/shm")

WAY_OUT = (
    "make it larger (EVEREST_SHM of a job, docker run --shm-size), or take fewer data.workers (0 needs none) "
    "or a smaller optim.batch_size"
)
_HELD = 2  # beside those on their way: the one a step works on, and the one after it


def require_shared_memory(config: Experiment, training: bool, testing: bool) -> None:
    """Raises UsageError where the batches of this machine's processes will not fit, once all workers are ahead."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed, free = processes * shared_memory(config, training, testing), free_shared_memory()
    if free is not None and needed > free:
        workers = worker_count(config.data.workers)
        raise UsageError(
            f"{FOLDER} is too small: batches take up to {megabytes(needed)} of it ({processes} process"
            f"{'es' if processes > 1 else ''} with {workers} workers), and {megabytes(free)} are free; {WAY_OUT}"
        )


def shared_memory(config: Experiment, training: bool, testing: bool) -> int:
    """Bytes that one process needs, for training, for testing, or for both at the same time."""
    workers = worker_count(config.data.workers)
    if not workers:
        return 0
    model, evaluate = config.model, config.evaluate
    clip = config.frames.candidates(model.num_frames, model.tubelet_size) * model.image_size**2 * 3
    clips = (config.optim.batch_size if training else 0) + (
        max(evaluate.batch_size, evaluate.segments * evaluate.crops) if testing else 0
    )
    return (PREFETCH * workers + _HELD) * clips * clip


def free_shared_memory() -> int | None:
    """Bytes; None where there is no such folder."""
    if not FOLDER.is_dir():
        return None
    found = os.statvfs(FOLDER)
    return found.f_bavail * found.f_frsize


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
