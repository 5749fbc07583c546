"""A pod at a meeting: works in the rounds that the host calls, and comes out of them when it is told to."""

import asyncio
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple

from orchestration.pod.host import BEAT_S, GONE, LONGEST, heard, say
from orchestration.pod.rounds import BROKEN_S

log = logging.getLogger(__name__)

#: What torchrun hands on to its processes: they heed the first between two steps, and are ended by the second.
SAVE, END = signal.SIGINT, signal.SIGHUP
_CONNECT_S = 5.0
_TOGETHER_S = 120  # that a team has to meet, all of which was there a moment ago
_LOOK_S = 0.5


class Round(NamedTuple):
    number: int
    rank: int  # of this pod
    pods: int
    store: str  # where they meet: at the first

    def flags(self, meeting: str) -> list[str]:
        """torchrun's."""
        return [
            *("--nnodes", str(self.pods), "--node-rank", str(self.rank), "--max-restarts", "0"),
            *("--rdzv-backend", "static", "--rdzv-endpoint", self.store, "--rdzv-conf", f"timeout={_TOGETHER_S}"),
            *("--rdzv-id", f"{meeting}-{self.number}"),
        ]


class Over(Exception):
    """The host is lost, or it has lost this pod."""


class Member:
    """Listens in a thread of its own. What the main thread works on is stopped by signals to the process."""

    def __init__(self, host: tuple[str, int], meeting: str, pod: int, address: str) -> None:
        """Raises OSError where no host of that meeting answers."""
        self.meeting, self._pod = meeting, pod
        self._begun: queue.Queue[Round] = queue.Queue()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._at_work = 0  # the round's number
        self._told: set[int] = set()  # rounds that are to stop
        welcomed: Future[None] = Future()
        hello = {"meeting": meeting, "pod": pod, "address": address}
        threading.Thread(target=self._run, args=(host, hello, welcomed), name="member", daemon=True).start()
        welcomed.result()

    def next_round(self, done: int, port: int, patience_s: float) -> Round | None:
        """The next one of this pod, which has come out of the one ``done``; None where there is none for so long.

        Raises Over.
        """
        self._say({"ready": done, "port": port})
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if self._over.is_set():
                raise Over
            with suppress(queue.Empty):
                return self._begun.get(timeout=_LOOK_S)
        return None

    def work(self, number: int, torchrun: Callable[[], int]) -> int | None:
        """The exit code; None where the round was to stop, unless the whole pod is."""
        from torch.distributed.elastic.multiprocessing.api import SignalException

        def stop(signum: int, _: object) -> None:  # until torchrun itself listens, and after
            raise SignalException("", signal.Signals(signum))

        before = {each: signal.getsignal(each) for each in (SAVE, END, signal.SIGTERM)}
        try:
            try:
                for each in before:
                    signal.signal(each, stop)
                self._set_at_work(number)
                code = 0 if self._stopped(number) else torchrun()
            finally:
                self._set_at_work(0)  # no signals from here on
        except SignalException as stopped:
            self._set_at_work(0)
            code = 128 + stopped.sigval
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
        return None if self._stopped(number) and code != 128 + signal.SIGTERM else code

    def _set_at_work(self, number: int) -> None:
        with self._lock:
            self._at_work = number

    def leave(self) -> None:
        with suppress(RuntimeError):  # it is over
            self._loop.call_soon_threadsafe(self._attending.cancel)

    def _stopped(self, number: int) -> bool:
        return number in self._told or self._over.is_set()

    def _stop(self, number: int, signum: int) -> None:
        with self._lock:
            self._told.add(number)
            if self._at_work == number:
                os.kill(os.getpid(), signum)

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(say, self._writer, message)

    def _run(self, host: tuple[str, int], hello: dict[str, Any], welcomed: "Future[None]") -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._attend(host, hello, welcomed))
        self._over.set()
        if number := self._at_work:
            self._stop(number, SAVE)
            time.sleep(BROKEN_S)
            self._stop(number, END)

    async def _attend(self, host: tuple[str, int], hello: dict[str, Any], welcomed: "Future[None]") -> None:
        try:
            reader, self._writer = await asyncio.wait_for(asyncio.open_connection(*host, limit=LONGEST), _CONNECT_S)
            say(self._writer, hello)
            await heard(reader)
        except GONE as error:
            welcomed.set_exception(error if isinstance(error, OSError) else ConnectionError(f"{host} is no host"))
            return
        self._loop = asyncio.get_running_loop()
        self._attending = asyncio.gather(self._listen(reader), self._beat())
        welcomed.set_result(None)
        try:
            await self._attending
        except GONE:
            log.warning("the host of the meeting does not answer any more")
        finally:
            self._writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            said = await heard(reader)
            if not said:
                continue
            number, team = int(said["round"]), said["team"]
            if said["kind"] == "begin":
                address, port = said["store"]
                self._begun.put(Round(number, team.index(self._pod), len(team), f"{address}:{port}"))
            else:
                self._stop(number, SAVE if said["kind"] == "save" else END)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            say(self._writer, {})
