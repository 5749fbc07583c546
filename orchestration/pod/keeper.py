"""What a pod says is kept in S3, beside the checkpoints: there within seconds, and there still when the pod is gone."""

import gzip
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from everest.errors import UsageError
from orchestration.log import Line, Piece
from orchestration.outbox import DICE, LONGEST_WAIT_S
from orchestration.pod.backlog import Backlog
from orchestration.s3 import S3Store
from orchestration.s3_errors import OF_S3, describe, server_of
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

EVERY_S = 5.0
_LARGE = 2**20  # bytes, uncompressed, after which a piece is left as it is
_LAST_WORDS_S = 10.0  # that S3 may take them


@contextmanager
def keeping(backlog: Backlog, settings: PlatformSettings, run: str, pod: int) -> Iterator[None]:
    """Until its end; what then is not kept within seconds is said to be lost."""
    if not settings.s3_bucket:
        yield
        return
    keeper = Keeper(backlog, S3Store(settings, run), pod)
    try:
        yield
    finally:
        if left := keeper.close(_LAST_WORDS_S):
            log.warning("the last %d lines are not kept in %s", left, keeper.address)


@dataclass
class _Growing:
    piece: Piece
    text: bytearray = field(default_factory=bytearray)


class Keeper:
    """Writes the lines of ``backlog`` to ``store``, in a thread of its own, as pieces of each start and process.

    The newest piece of a process grows: it is written anew with all its lines, whole each time. While the store is
    away, or refuses, that is tried again, and the backlog holds what else is said.
    """

    def __init__(self, backlog: Backlog, store: S3Store, pod: int) -> None:
        self._backlog, self._store, self._pod = backlog, store, pod
        self.address = store.address
        self._start, self._unwritten = "", 0
        self._growing: dict[int | None, _Growing] = {}
        self._ending = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> int:
        """Writes what is left. Returns how many lines are not kept after so long."""
        self._ending.set()
        self._backlog.close()
        self._thread.join(seconds)
        self._given_up.set()
        self._store.close()
        return len(self._backlog) + self._unwritten if self._thread.is_alive() else 0

    def _work(self) -> None:
        while True:
            ending = self._ending.is_set()
            while lines := self._backlog.take(_LARGE):
                self._unwritten = len(lines)
                for growing in self._grown(lines):
                    self._write(growing)
                self._unwritten = 0
                if self._given_up.is_set():
                    return
            if ending:
                return
            self._backlog.wait(_LARGE, EVERY_S)

    def _grown(self, lines: list[bytes]) -> list[_Growing]:
        """Pieces that have got lines more."""
        grown: dict[Piece, _Growing] = {}
        for raw in lines:
            line = Line.parse(raw.decode(errors="replace").rstrip("\n"), self._pod)
            if line.begins or not self._start:
                self._start = line.moment
                self._growing.clear()
            growing = self._growing.get(line.rank)
            if growing is None or len(growing.text) > _LARGE:
                number = growing.piece.number + 1 if growing else 1
                growing = _Growing(Piece(self._start, self._pod, line.rank, number))
                self._growing[line.rank] = growing
            growing.text += raw
            grown[growing.piece] = growing
        return list(grown.values())

    def _write(self, growing: _Growing) -> None:
        content = gzip.compress(growing.text, compresslevel=6, mtime=0)
        since = time.monotonic()
        said, pause_s = False, 0.5
        while not self._given_up.is_set():
            try:
                self._store.write(growing.piece.key, content)
            except (*OF_S3, OSError, UsageError) as error:
                if not said:
                    server, why = server_of(self._store.settings), describe(error, self._store.settings)
                    log.warning("%s does not take the log; going on, and trying again (%s)", server, why)
                    said = True
                self._given_up.wait(DICE.uniform(0, pause_s))
                pause_s = min(LONGEST_WAIT_S, 2 * pause_s)
            else:
                if said:
                    log.info("the log is kept again, after %.0f s", time.monotonic() - since)
                return
