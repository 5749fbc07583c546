"""/dev/shm, where decoding workers put their clips: how much a run needs of it, and how much there is."""

import os
from collections.abc import Sequence
from pathlib import Path

from everest.config import Experiment
from everest.cores import local_processes
from everest.data.portions import testing_portions, training_portions
from everest.errors import EverestError, UsageError

FOLDER = Path("/dev/shm")

Views = tuple[int, int]  # of each video of a test: segments and crops

WAY_OUT = (
    "make it larger (EVEREST_SHM of a job, docker run --shm-size), or take fewer data.workers (0 needs none) "
    "or a smaller optim.micro_batch"
)


def require_shared_memory(config: Experiment, training: bool, tests: Sequence[Views]) -> None:
    """Raises UsageError where the clips of this machine's processes will not fit, once all workers are ahead."""
    processes = local_processes()
    needed, free = processes * shared_memory(config, training, tests), free_shared_memory()
    if free is not None and needed > free:
        several, workers = "es" if processes > 1 else "", training_portions(config).workers
        raise UsageError(
            f"{FOLDER} is too small: what workers have ready takes up to {megabytes(needed)} of it ({processes} "
            f"process{several} with {workers} workers), and {megabytes(free)} are free; {WAY_OUT}"
        )


def shared_memory(config: Experiment, training: bool, tests: Sequence[Views]) -> int:
    """Bytes that one process needs, for training and, at the same time, for one of several tests."""
    model = config.model
    clip = config.frames.candidates(model.num_frames, model.tubelet_size) * model.image_size**2 * 3
    trained = training_portions(config).handed_over if training else 0
    tested = max((testing_portions(config, *views).handed_over for views in tests), default=0)
    return (trained + tested) * clip


def free_shared_memory() -> int | None:
    """Bytes; None where there is no such folder."""
    if not FOLDER.is_dir():
        return None
    found = os.statvfs(FOLDER)
    return found.f_bavail * found.f_frsize


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def cannot_hand_over(error: Exception) -> EverestError:
    """In a worker: what its clips could not be put into."""
    free = megabytes(free_shared_memory() or 0)
    return EverestError(
        f"a decoding worker cannot hand over its clips: {' '.join(str(error).split())}; "
        f"{free} are free in {FOLDER}; {WAY_OUT}"
    )
