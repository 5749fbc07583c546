"""Lines on their way to something that may be slow, or away."""

import re
import threading
from collections import deque
from collections.abc import Sequence

MOST = 64 * 2**20  # bytes

_LOST = b"%s%sWARNING %d lines are lost here: they came faster than they could be written\n"
_SPEAKER = re.compile(rb"(\S+ )((?:\[(?:rank|pod) \d+\] )?)")  # when, who


class Backlog:
    """Never waits for who takes them: where too many wait the oldest are lost, and a line in their place says so."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._lost: dict[bytes, tuple[int, bytes]] = {}  # of each speaker: how many, when the last
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, lines: Sequence[bytes]) -> None:
        with self._changed:
            self._lines.extend(lines)
            self._size += sum(map(len, lines))
            while self._size > self._most:
                self._lose()
            self._changed.notify_all()

    def wait(self, size: int, seconds: float | None = None) -> bool:
        """Until so many bytes wait, or for so long. False once nothing more comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._size >= size or self._closed, seconds)
            return not self._closed

    def take(self, most: int) -> list[bytes]:
        """The oldest that wait, of about so many bytes."""
        with self._changed:
            taken = [_LOST % (when, who, count) for who, (count, when) in self._lost.items()]
            self._lost.clear()
            size = 0
            while self._lines and size < most:
                taken.append(self._lines.popleft())
                size += len(taken[-1])
            self._size -= size
            return taken

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _lose(self) -> None:
        line = self._lines.popleft()
        self._size -= len(line)
        found = _SPEAKER.match(line)
        when, who = found.groups() if found else (b"", b"")
        self._lost[who] = (self._lost.get(who, (0, b""))[0] + 1, when)
