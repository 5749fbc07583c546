"""Where a process is: its step and phase, in a few bytes of a file that who watches it reads. Nobody waits for a lock.

Who starts the processes of a run names a folder of this machine in ``EVEREST_PULSE``, and may ask each for its stacks.
"""

import faulthandler
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

FOLDER = "EVEREST_PULSE"
STACKS = signal.SIGUSR1  # asks for them

Phase = Literal[
    "starting", "checking", "loading", "data", "compiling", "forward", "backward", "collective", "update", "device",
    "saving", "validating", "S3", "finishing",
]  # fmt: skip
_PHASES: tuple[Phase, ...] = get_args(Phase)
_NOTE = struct.Struct("=qqqqqd")


class Beat(NamedTuple):
    """What a process noted last."""

    pid: int
    notes: int  # so far: another number means that it goes on
    begun: int  # steps that it has begun
    step: int
    phase: Phase
    patience_s: float  # that this may take for reasons of its own, as waiting for a server


class Pulse:
    """Of this process. Without a file nobody sees it. Used by one thread at a time."""

    def __init__(self, file: Path | None = None) -> None:
        self._memory: bytearray | mmap.mmap = bytearray(_NOTE.size)
        if file:
            file.write_bytes(self._memory)
            with file.open("r+b") as opened:
                self._memory = mmap.mmap(opened.fileno(), _NOTE.size)
        self._beat = Beat(os.getpid(), 0, 0, 0, "starting", 0.0)
        self.beat()

    def beat(self) -> None:
        """It goes on, at the same."""
        self._note(self._beat)

    def step(self, number: int) -> None:
        """Begins one, in the phase forward."""
        self._note(self._beat._replace(begun=self._beat.begun + 1, step=number, phase="forward", patience_s=0.0))

    def enter(self, phase: Phase, patience_s: float = 0.0) -> None:
        """From now on."""
        self._note(self._beat._replace(phase=phase, patience_s=patience_s))

    @contextmanager
    def during(self, phase: Phase, patience_s: float = 0.0) -> Iterator[None]:
        """And the phase of before again afterwards."""
        before = self._beat
        self.enter(phase, patience_s)
        try:
            yield
        finally:
            self.enter(before.phase, before.patience_s)

    def _note(self, now: Beat) -> None:
        self._beat = now = now._replace(notes=now.notes + 1)
        _NOTE.pack_into(self._memory, 0, *now[:4], _PHASES.index(now.phase), now.patience_s)


def pulse_here() -> Pulse:
    """That of this process of a run, which can be asked for its stacks from now on."""
    can_be_asked("training process")
    if folder := os.environ.get(FOLDER):
        with suppress(OSError):  # a full disk is no reason not to train
            return Pulse(Path(folder) / f"pulse-{os.environ.get('RANK', '0')}")
    return Pulse()


def pulses(folder: Path) -> dict[int, Beat]:
    """By rank."""
    found = {int(file.name.removeprefix("pulse-")): file.read_bytes() for file in folder.glob("pulse-*")}
    return {rank: _beat(*_NOTE.unpack(note)) for rank, note in found.items() if len(note) == _NOTE.size}


def _beat(pid: int, notes: int, begun: int, step: int, phase: int, patience_s: float) -> Beat:
    return Beat(pid, notes, begun, step, _PHASES[phase], patience_s)


def can_be_asked(what: str) -> None:
    """Whoever sends STACKS to this process, ``what`` it is, finds them in a file; it may be waiting in native code."""
    if folder := os.environ.get(FOLDER):
        with suppress(OSError):
            file = stacks_of(Path(folder), os.getpid()).open("w")
            print(what, file=file, flush=True)
            faulthandler.register(STACKS, file)


def stacks_of(folder: Path, pid: int) -> Path:
    """There is such a file for every process that can be asked: a line that says what it is, and its stacks."""
    return folder / f"stacks-{pid}"
