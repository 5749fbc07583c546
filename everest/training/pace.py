"""Where the time of training goes: waiting for data, or the step."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch

from everest.config import Experiment
from everest.cores import local_processes, usable_cores
from everest.data.index import VideoIndex
from everest.data.packed.videos import PackedVideos
from everest.data.units import Batch
from everest.data.workers import worker_count
from everest.training.distributed import Process
from everest.training.stragglers import Share, slowness

log = logging.getLogger(__name__)

_Moment: TypeAlias = float | torch.cuda.Event
_MUCH, _LONG_S = 1 / 3, 120.0  # from when on data is the limit: a share of the time, for so long


class Pace:
    """One process's times since numbers were last shown. No device is waited for.

    A GPU waits for a batch from the end of what it computed before until the batch is there, however early this
    process began to wait for it.
    """

    def __init__(self, workers: int, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers, self._clock = max(1, workers), clock
        self.shares: list[Share] = []  # by rank, of the time that numbers were last shown of
        self._gpu = device.type == "cuda"
        self._begin()

    def _begin(self) -> None:
        self._since, self._making_s, self._clips = self._clock(), 0.0, 0
        self._waits: list[tuple[_Moment, _Moment]] = []
        self._computed: list[tuple[_Moment, _Moment]] = []

    @property
    def seconds(self) -> float:
        return self._clock() - self._since

    def next(self, batches: Iterator[Batch]) -> Batch:
        began = self._moment()
        batch = next(batches)
        self._waits.append((began, self._moment()))
        self._making_s += batch.seconds
        self._clips += len(batch.frames)
        return batch

    def computed(self) -> None:
        """What came in last has been, by this process; it waits for the others from now on."""
        self._computed.append((self._waits[-1][1], self._moment()))

    def _moment(self) -> _Moment:
        if not self._gpu:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what is not training."""
        began = self._clock()
        yield
        self._since += self._clock() - began

    def numbers(self, process: Process) -> dict[str, float]:
        """Over all processes; begins anew. The share is that of the process that waits most: all wait for it.

        On a GPU what came in must have been computed.
        """
        seconds = max(self.seconds, 1e-9)
        share = Share(*(sum(_seconds(*pair) for pair in pairs) for pairs in (self._waits, self._computed)))
        each = process.gather((self._clips, self._making_s, share.waiting_s / seconds, share))
        clips_per_s = sum(clips for clips, _, _, _ in each) / seconds
        data_wait = max(waited for _, _, waited, _ in each)
        self.shares = [share for _, _, _, share in each]
        self._begin()
        slow = {"perf/straggler": slowness(self.shares)} if process.world > 1 else {}
        return slow | {
            "perf/clips_per_s": clips_per_s,
            "perf/data_wait": data_wait,
            "perf/step_clips_per_s": clips_per_s / max(1 - data_wait, 1e-9),
            "perf/loader_clips_per_s": sum(self._workers * clips / max(making, 1e-9) for clips, making, _, _ in each),
        }


def _seconds(began: _Moment, came: _Moment) -> float:
    if isinstance(began, float) and isinstance(came, float):
        return came - began
    return float(began.elapsed_time(came)) / 1000  # type: ignore[union-attr,arg-type]


class DataLimit:
    """Says it once where training has waited for data for minutes; and once more if that was over in between."""

    def __init__(self, remedies: list[str]) -> None:
        self._remedies, self._for_s, self._said = remedies, 0.0, False

    def see(self, numbers: dict[str, float], seconds: float) -> None:
        """The numbers of the last so many seconds."""
        if numbers["perf/data_wait"] <= _MUCH:
            self._for_s, self._said = 0.0, False
            return
        self._for_s += seconds
        if self._for_s >= _LONG_S and not self._said:
            self._said = True
            log.warning(
                "training waits for data %.0f%% of the time: the steps could take %.0f clips/s, the workers make %.0f; "
                "what would help: %s",
                100 * numbers["perf/data_wait"],
                numbers["perf/step_clips_per_s"],
                numbers["perf/loader_clips_per_s"],
                ", ".join(self._remedies),
            )


def remedies(config: Experiment, index: VideoIndex) -> list[str]:
    """What makes data come faster, the least trouble first."""
    found, cores, busy = [], usable_cores(), worker_count(config.data.workers) * local_processes()
    if busy < cores:
        found.append(f"more data.workers ({busy} of {cores} cores decode)")
    if not isinstance(index.videos, PackedVideos):
        found.append("everest data pack")
    return [*found, f"a higher data.repeats (it is {config.data.repeats})"]
