"""What a reader and who asks it send each other: JSON and raw bytes, each with its length before it."""

import json
import math
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

_LENGTH = struct.Struct("!Q")
#: Before a picture's pixels: a zero, which no JSON begins with, and when it is shown, in seconds.
PICTURE_HEAD = struct.Struct("<xd")


class Gone(Exception):
    """The other end is no more."""


class Late(Exception):
    """The other end was not done in time."""


class Wire:
    """One end of a connection. All but ``allow`` raise Gone and Late, which leave it in the middle of a message."""

    def __init__(self, own: socket.socket) -> None:
        self._socket = own
        self._until = math.inf

    def allow(self, seconds: float) -> None:
        """For all that follows together; without it there is time for ever."""
        self._until = time.monotonic() + seconds

    def say(self, message: Any) -> None:
        self.send(json.dumps(message).encode())

    def hear(self) -> Any:
        return json.loads(self.receive())

    def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._go_through(self._socket.send, memoryview(_LENGTH.pack(len(view))))
        self._go_through(self._socket.send, view)

    def receive(self) -> bytes:
        data = bytearray(self._length())
        self._go_through(self._socket.recv_into, memoryview(data))
        return bytes(data)

    def receive_into(self, data: memoryview) -> None:
        """A message that is as long as ``data``."""
        view = memoryview(data).cast("B")
        if self._length() != len(view):
            raise Gone
        self._go_through(self._socket.recv_into, view)

    def _length(self) -> int:
        head = bytearray(_LENGTH.size)
        self._go_through(self._socket.recv_into, memoryview(head))
        length: int = _LENGTH.unpack(head)[0]
        return length

    def _go_through(self, move: Callable[[memoryview], int], data: memoryview) -> None:
        while data:
            left = self._until - time.monotonic()
            if left <= 0:
                raise Late
            self._socket.settimeout(None if left == math.inf else left)
            try:
                moved = move(data)
            except TimeoutError:
                raise Late from None
            except ConnectionError:
                raise Gone from None
            if not moved:
                raise Gone
            data = data[moved:]
