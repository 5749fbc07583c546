"""The host of a meeting: one of a job's pods, which all of them (itself, too) are connected to."""

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestration.pod.rounds import SETTLE_S, Order, Rounds

log = logging.getLogger(__name__)

BEAT_S, SILENT_S = 5.0, 30.0  # between signs of life; without one for so long a pod counts as lost
LONGEST = 2**16  # bytes of a message
_DECIDE_S = 0.5
_SAY_S = 60.0


@dataclass(frozen=True)
class _Pod:
    writer: asyncio.StreamWriter
    address: str
    port: int  # where its team meets, if it is the first of it


class Host:
    """Works in a thread of its own, at the pod's own address. Who connects must know the meeting's token."""

    def __init__(self, address: str, sizes: Sequence[int], grace_s: float) -> None:
        """Raises OSError where the address is not this machine's."""
        self.address, self.token = address, secrets.token_hex(8)
        self._rounds = Rounds(sizes, grace_s)
        self._pods: dict[int, _Pod] = {}
        self._say_at: float | None = None
        listening: Future[int] = Future()
        threading.Thread(target=self._run, args=(listening,), name="meeting", daemon=True).start()
        self.port = listening.result()

    def linger(self, seconds: float) -> None:
        """Until all of the team have left, or for so long: they would take this pod's end for a loss."""
        deadline = time.monotonic() + seconds
        while self._rounds.working and time.monotonic() < deadline:
            time.sleep(_DECIDE_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)

    def _run(self, listening: "Future[int]") -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._serve(listening))

    async def _serve(self, listening: "Future[int]") -> None:
        try:
            server = await asyncio.start_server(self._meet, self.address, 0, limit=LONGEST)
        except OSError as error:
            listening.set_exception(error)
            return
        self._loop = asyncio.get_running_loop()
        self._serving = asyncio.gather(self._decide(), self._beat())
        listening.set_result(server.sockets[0].getsockname()[1])
        try:
            await self._serving
        finally:
            server.close()
            for pod in self._pods.values():
                pod.writer.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = await heard(reader)
            if hello["meeting"] == self.token:
                say(writer, {})
                await self._listen(int(hello["pod"]), str(hello["address"]), reader, writer)
        except GONE:
            pass
        finally:
            writer.close()

    async def _listen(
        self, number: int, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                if said := await heard(reader):
                    before = self._pods.get(number)
                    if before and before.writer is not writer:  # a pod in its place, or the same one cut off
                        before.writer.close()
                        self._rounds.gone(number, time.monotonic())
                    self._pods[number] = _Pod(writer, address, int(said["port"]))
                    self._rounds.ready(number, int(said["ready"]), time.monotonic())
        finally:
            there = self._pods.get(number)
            if there and there.writer is writer:
                log.info("pod %d has left the meeting", number)
                del self._pods[number]
                self._rounds.gone(number, time.monotonic())

    async def _beat(self) -> None:
        while True:
            for pod in self._pods.values():
                say(pod.writer, {})
            await asyncio.sleep(BEAT_S)

    async def _decide(self) -> None:
        while True:
            now = time.monotonic()
            orders = self._rounds.orders(now)
            for said in {f"round {order.round} of the pods {order.team}: {order.kind}" for order in orders.values()}:
                log.info(said)
            for pod, order in orders.items():
                say(self._pods[pod].writer, self._message(order))
            self._say_what_is_missing(now)
            await asyncio.sleep(_DECIDE_S)

    def _message(self, order: Order) -> dict[str, Any]:
        first = self._pods[order.team[0]] if order.kind == "begin" else None
        return {**order._asdict(), "store": [first.address, first.port] if first else None}

    def _say_what_is_missing(self, now: float) -> None:
        here, least = len(self._rounds.here), self._rounds.sizes[0]
        if here >= least or self._rounds.working:
            self._say_at = None
        elif self._say_at is None:
            self._say_at = now + SETTLE_S
        elif now >= self._say_at:
            log.warning("waits for pods: %d here, at least %d are needed (EVEREST_NODES)", here, least)
            self._say_at = now + _SAY_S


#: Of a connection that has ended, or was none of ours.
GONE = (OSError, EOFError, ValueError, KeyError, TypeError)


async def heard(reader: asyncio.StreamReader) -> dict[str, Any]:
    """One message. Raises one of GONE, also where nothing is heard for too long."""
    line = await asyncio.wait_for(reader.readline(), SILENT_S)
    if not line.endswith(b"\n"):
        raise EOFError
    return dict(json.loads(line))


def say(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    """An empty one is a sign of life."""
    writer.write(json.dumps(message).encode() + b"\n")
