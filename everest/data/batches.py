"""Batches as the decoding workers hand them over, and a line where one cannot."""

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from everest.data.shared_memory import WAY_OUT, free_shared_memory, megabytes
from everest.errors import EverestError

if TYPE_CHECKING:
    from everest.data.loader import Batch

LOOK_EVERY_S = 5.0  # for workers that have ended; they are no children of this process, nobody tells it
_STUCK_AFTER_S = 600.0
_SILENCE, _FROM_WORKER = "DataLoader timed out", "in DataLoader worker process"
_CAUSES = {
    signal.SIGKILL: "is the memory full? Fewer data.workers need less",
    signal.SIGBUS: f"is /dev/shm full? Then {WAY_OUT}",
}


class Batches:
    """Iterating raises EverestError where a worker raised it, has ended, or is silent for too long.

    ``takes_s``: what the slowest batch may take to be made.
    """

    def __init__(self, loader: "DataLoader[Any]", takes_s: float) -> None:
        self._loader, self._patience_s = loader, _STUCK_AFTER_S + takes_s

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator["Batch"]:
        batches, silent_s = iter(self._loader), 0.0
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except EverestError as error:  # with the worker's traceback before its last line
                raise EverestError(str(error).strip().rpartition("EverestError: ")[2]) from None
            except (RuntimeError, OSError, EOFError) as error:
                silent_s += LOOK_EVERY_S
                if str(error).startswith(_SILENCE) and silent_s < self._patience_s:
                    continue
                if not self._loader.num_workers or _FROM_WORKER in str(error):
                    raise
                raise EverestError(_what_happened(error, getattr(batches, "_workers", []), silent_s)) from None
            silent_s = 0.0
            yield batch


def _what_happened(error: Exception, workers: list[Any], silent_s: float) -> str:
    ended = [worker.exitcode for worker in workers if worker.exitcode]
    if ended and ended[0] < 0:
        number = signal.Signals(-ended[0])
        return f"a decoding worker was ended by {number.name}; {_CAUSES.get(number, 'everest data check finds why')}"
    if ended:
        return f"a decoding worker ended with {ended[0]}; what it said is above"
    if str(error).startswith(_SILENCE):
        return f"the decoding workers gave nothing for {silent_s:.0f} s; everest data check finds videos that hang"
    return f"a decoding worker's batch did not arrive: {' '.join(str(error).split())[:200] or type(error).__name__}"


def cannot_hand_over(error: Exception) -> EverestError:
    """In a worker: what its batch could not be put into."""
    free = megabytes(free_shared_memory() or 0)
    return EverestError(
        f"a decoding worker cannot hand over its batch: {' '.join(str(error).split())}; "
        f"{free} are free in /dev/shm; {WAY_OUT}"
    )
