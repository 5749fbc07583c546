"""Lines that pods say, as they come."""

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import urllib3
from kubernetes.client.exceptions import ApiException

from everest.errors import EverestError, UsageError
from orchestration.cluster.errors import said
from orchestration.cluster.operator import CALL_S, Operator
from orchestration.job import SILENT_S, LogsMissing
from orchestration.log import Line, stamp

log = logging.getLogger(__name__)

_AGAIN_S = 1.0
_QUIET_S = 300.0  # without a line or an end, a connection may be dead: it is made again
_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT[\d:]+\.\d{9}\S*) (.*)", re.DOTALL)  # times of equal length


class Said(NamedTuple):
    place: str
    moment: bytes  # when it was said
    text: str

    def line(self, pod: int) -> Line:
        line = Line.parse(self.text, pod)
        if line.moment or not self.moment:
            return line
        return line._replace(moment=stamp(datetime.fromisoformat(self.moment.decode())))


@dataclass(frozen=True)
class PodLogs:
    """``ended`` tells whether nothing more is to come. A job's pods are known by their places."""

    core: Any
    namespace: str
    operator: Operator
    ended: Callable[[], bool]

    def lines(
        self, places: Sequence[str], follow: bool, last: int | None, some_may_lack: bool = False
    ) -> Iterator[Said]:
        """Those of all pods; where a pod is replaced, its successor is followed on.

        As they come; the ``last`` ones in the order in which they were said. Raises LogsMissing, after the lines there
        are, where a pod has none (``some_may_lack``: where all have none), and EverestError where nobody answers; with
        ``follow`` after SILENT_S.
        """
        lines: queue.Queue[Said | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def read(place: str) -> None:
            reader = _Reader(self, place, follow, last, stop)
            try:
                for line in reader.lines():
                    lines.put(line)
            except BaseException as error:
                lines.put(error)
            finally:
                lines.put(None)

        for place in places:
            threading.Thread(target=read, args=(place,), daemon=True).start()
        left, missing = len(places), []
        kept: list[Said] = []
        try:
            while left:
                line = lines.get()
                if isinstance(line, LogsMissing):
                    missing.append(str(line))
                elif isinstance(line, BaseException):
                    raise said(line) from None
                elif line is None:
                    left -= 1
                elif last is None or follow:
                    yield line
                else:
                    kept.append(line)
        finally:
            stop.set()
        yield from sorted(kept, key=lambda line: line.moment)
        if missing and not (some_may_lack and len(missing) < len(places)):
            raise LogsMissing("; ".join(sorted(missing)))


class _Reader:
    """Of one pod's lines.

    A stream that was cut is opened again from the log's beginning, as the API has it. Each line comes with the time it
    was said, so that the last one that is known is found again, or is known to be no longer there.
    """

    def __init__(self, logs: PodLogs, place: str, follow: bool, last: int | None, stop: threading.Event) -> None:
        self._logs, self._place, self._follow, self._last, self._stop = logs, place, follow, last, stop
        self._uid = ""  # of the pod that was read
        self._anchor, self._latest = b"", b""  # the last line that is known, and the latest time of any
        self._whole = False  # all that this pod said was read
        self._silent_since: float | None = None

    def lines(self) -> Iterator[Said]:
        while not self._stop.is_set():
            missing = ""
            try:
                ended = self._logs.ended()
                yield from self._read(ended)
            except (ApiException, urllib3.exceptions.HTTPError, OSError, EverestError) as error:
                if not (missing := self._why_missing(error)):
                    self._bear(said(error))
                    self._stop.wait(_AGAIN_S)
                    continue
            if ended:
                if missing and not self._whole:
                    raise LogsMissing(missing)
                return
            self._stop.wait(_AGAIN_S)

    def _bear(self, error: EverestError) -> None:
        """Raises it, unless it may pass."""
        self._silent_since = self._silent_since or time.monotonic()
        silent_s = time.monotonic() - self._silent_since
        if not self._follow or isinstance(error, UsageError) or silent_s > SILENT_S:
            raise error

    def _read(self, ended: bool) -> Iterator[Said]:
        """What one stream has that is not known. Raises what the client library does."""
        core, namespace = self._logs.core, self._logs.namespace
        pod = self._logs.operator.pod(core, namespace, self._place)
        uid = pod.metadata.uid
        if uid != self._uid:
            if self._uid and not self._whole:
                log.warning("the pod %s was replaced; what it said last may be lost", self._place)
            self._uid, self._anchor, self._latest = uid, b"", b""
        self._whole = False
        if pod.status.phase == "Pending":
            raise LogsMissing(f"the pod {self._place} has not begun; everest-jobs status says why")
        some = {} if self._last is None or self._anchor else {"tail_lines": self._last}
        stream = core.read_namespaced_pod_log(
            pod.metadata.name, namespace, container=self._logs.operator.container, follow=self._follow, timestamps=True,
            _preload_content=False, _request_timeout=(CALL_S, _QUIET_S), **some,
        )  # fmt: skip
        self._silent_since = None
        known = bool(self._anchor)
        with closing(stream):
            for raw in stream:
                if not raw.endswith(b"\n") and not ended:
                    return  # half a line: the rest comes with the next stream
                moment, text = _parted(raw)
                if known and moment <= self._latest:
                    known = raw != self._anchor
                    continue
                known = False
                if moment:
                    self._anchor, self._latest = raw, max(self._latest, moment)
                yield Said(self._place, moment, text.decode(errors="replace").rstrip("\n"))
        self._whole = True

    def _why_missing(self, error: Exception) -> str:
        """Where the pod is not there, or has not started."""
        status = error.status if isinstance(error, ApiException) else None
        if status == 404:
            return f"there is no pod {self._place}: it is deleted, and its lines with it, or not made yet"
        if status == 400:
            return f"the pod {self._place} has said nothing: {said(error)}"
        return str(error) if isinstance(error, LogsMissing) else ""


def _parted(raw: bytes) -> tuple[bytes, bytes]:
    """The time at which a line was said, and the line; what the node itself says has no time."""
    found = _STAMPED.fullmatch(raw)
    return (found[1], found[2]) if found else (b"", raw)
