"""Batches, joined from what the decoding workers hand over, and a line where one cannot."""

import signal
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from everest.data.shared_memory import WAY_OUT
from everest.data.units import Batch, Unit, join
from everest.errors import EverestError

LOOK_EVERY_S = 5.0  # for workers that have ended; they are no children of this process, nobody tells it
_STUCK_AFTER_S = 600.0
_SILENCE, _FROM_WORKER = "DataLoader timed out", "in DataLoader worker process"
_CAUSES = {
    signal.SIGKILL: "is the memory full? Fewer data.workers need less",
    signal.SIGBUS: f"is /dev/shm full? Then {WAY_OUT}",
}


class Batches:
    """Iterating starts the workers, and raises EverestError where one raised it, has ended, or is silent for too long.

    ``count`` batches of ``units`` each, the last perhaps of fewer. ``takes_s``: what the slowest unit may take.
    """

    def __init__(self, loader: DataLoader[Unit], count: int, units: int, device: torch.device, takes_s: float) -> None:
        self._loader, self._count, self._units, self._device = loader, count, units, device
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._patience_s = _STUCK_AFTER_S + takes_s

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        units = self._handed_over(iter(self._loader))
        return iter(partial(self._next, units), None)

    def _next(self, units: Iterator[Unit]) -> Batch | None:
        made = list(islice(units, self._units))
        if not made:
            return None
        if self._copying is None:
            return join(made, self._device)
        with torch.cuda.stream(self._copying):  # while what was asked for before is still computed
            batch = join(made, self._device)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copying)
        for tensor in (batch.frames, batch.labels):
            tensor.record_stream(computing)
        return batch

    def _handed_over(self, units: Iterator[Unit]) -> Iterator[Unit]:
        silent_s = 0.0
        while True:
            try:
                unit = next(units)
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
                raise EverestError(_what_happened(error, getattr(units, "_workers", []), silent_s)) from None
            silent_s = 0.0
            yield unit


def _what_happened(error: Exception, workers: list[Any], silent_s: float) -> str:
    ended = [worker.exitcode for worker in workers if worker.exitcode]
    if ended and ended[0] < 0:
        number = signal.Signals(-ended[0])
        return f"a decoding worker was ended by {number.name}; {_CAUSES.get(number, 'everest data check finds why')}"
    if ended:
        return f"a decoding worker ended with {ended[0]}; what it said is above"
    if str(error).startswith(_SILENCE):
        return f"the decoding workers gave nothing for {silent_s:.0f} s; everest data check finds videos that hang"
    return f"what a decoding worker made did not arrive: {' '.join(str(error).split())[:200] or type(error).__name__}"
