"""Sees to it that the processes of a pod go on: who stands still is named, and ended with all the others."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from everest.errors import EverestError
from everest.machine import node
from everest.pulse import Beat, pulses
from orchestration.pod import recorder
from orchestration.pod.member import END
from orchestration.pod.rounds import BROKEN_S
from orchestration.pod.stacks import end_what_is_left, ended, family, is_stopped, stacks
from orchestration.pod.standstill import Bounds, Judge, Stall

log = logging.getLogger(__name__)

_LOOK_S = 1.0

Keep = Callable[[str, bytes], None]  # under a name, beside the run's checkpoints


class Watch:
    """Of one process that starts those of a run, perhaps again and again. It watches in a thread of its own."""

    def __init__(self, bounds: Bounds, keep: Keep, tell: Callable[[Stall], None] = lambda _: None) -> None:
        self._bounds, self._keep, self._tell = bounds, keep, tell
        self._node = node()
        self.stalls: list[Stall] = []

    @contextmanager
    def over(self, folder: Path) -> Iterator[Callable[[], bool]]:
        """Over processes whose notes are in ``folder``, while they run. Gives whether they were ended.

        The line that says why is said again when all that is known of them has been.
        """
        done, before = threading.Event(), len(self.stalls)
        thread = threading.Thread(target=self._watch, args=(folder, done), name="watch", daemon=True)
        thread.start()
        try:
            yield lambda: len(self.stalls) > before
        finally:
            done.set()
            thread.join()
            end_what_is_left(folder)
            self._keep_traces(folder)
            if len(self.stalls) > before:
                log.error("%s", self.stalls[-1].line)

    def require_new(self) -> None:
        """Raises EverestError where the run has stood still twice in the same step."""
        last = self.stalls[-1] if self.stalls else None
        if last and last.step in {stall.step for stall in self.stalls[:-1]}:
            raise EverestError(f"{last.line}; it is the second time in this step, so it does not begin again")

    def _watch(self, folder: Path, done: threading.Event) -> None:
        judge, looked = Judge(self._bounds, self._node), time.monotonic()
        while not done.wait(_LOOK_S):
            noted = pulses(folder)
            beats = {rank: beat for rank, beat in noted.items() if not ended(beat.pid)}
            if noted and not beats:
                end_what_is_left(folder)  # it may hold open what is read of them
            # Where this process stood still itself, as with a machine that sleeps, nobody can have gone on.
            seconds, looked = min(time.monotonic() - looked, 2 * _LOOK_S), time.monotonic()
            if stall := judge.see(beats, seconds):
                if is_stopped(beats[stall.ranks[0]].pid):
                    stall = replace(stall, line=f"{stall.line}; its process is stopped, as by SIGSTOP")
                self.stalls.append(stall)
                self._end(stall, beats, folder, done)
                return

    def _end(self, stall: Stall, beats: dict[int, Beat], folder: Path, done: threading.Event) -> None:
        """First those that are behind, so that the others notice, and save what they have; after a while all."""
        log.error("%s", stall.line)
        self._tell(stall)
        families = {rank: family(beat.pid) for rank, beat in beats.items()}
        found = {rank: stacks(folder, beat.pid) for rank, beat in sorted(beats.items())}
        for rank, said in found.items():
            print(*(f"[rank {rank}] {line}" for line in said.splitlines()), sep="\n", file=sys.stderr, flush=True)
        recorder.ask(folder, beats)
        for rank in stall.ranks:
            for process in families[rank]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        text = "\n\n".join([stall.line, *(f"rank {rank}\n{said}" for rank, said in found.items())])
        self._keep_safely(f"step-{stall.step:08d}-rank-{stall.ranks[0]}-{_now()}.txt", f"{text}\n".encode())
        if not done.wait(BROKEN_S):
            for process, *_ in families.values():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(END)

    def _keep_traces(self, folder: Path) -> None:
        """NCCL's, also where it was NCCL that ended a process: a collective had exceeded its time."""
        if traces := recorder.traces(folder):
            names = f"nccl-{_now()}-"
            for rank, trace in traces.items():
                self._keep_safely(f"{names}{rank}", trace)
            log.error("the last collectives of the ranks %s are in stalls/%s…", ", ".join(map(str, traces)), names)

    def _keep_safely(self, name: str, content: bytes) -> None:
        try:
            self._keep(f"stalls/{name}", content)
        except Exception as error:  # whatever a store says, the run is to go on
            log.warning("stalls/%s could not be kept: %s", name, error)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
