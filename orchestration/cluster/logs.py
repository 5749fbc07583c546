"""Lines that pods say, as they come."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from orchestration.cluster.errors import said


@dataclass(frozen=True)
class PodLogs:
    """``ended`` tells whether nothing more is to come."""

    core: Any
    namespace: str
    container: str
    ended: Callable[[], bool]

    def lines(self, pods: Sequence[str], follow: bool, last: int | None) -> Iterator[str]:
        """Those of all pods; where a pod is replaced, its successor is followed on."""
        lines: queue.Queue[str | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def read(pod: str) -> None:
            try:
                for line in self._of(pod, follow, last, stop):
                    lines.put(line)
            except BaseException as error:
                lines.put(error)
            finally:
                lines.put(None)

        for pod in pods:
            threading.Thread(target=read, args=(pod,), daemon=True).start()
        left = len(pods)
        try:
            while left:
                line = lines.get()
                if isinstance(line, BaseException):
                    raise said(line) from None
                if line is None:
                    left -= 1
                else:
                    yield line
        finally:
            stop.set()

    def _of(self, pod: str, follow: bool, last: int | None, stop: threading.Event) -> Iterator[str]:
        """A stream that was cut is opened again, and what is known already left out."""
        read_of, lines_read = "", 0
        while not stop.is_set():
            ended = self.ended()
            try:
                uid = self.core.read_namespaced_pod(pod, self.namespace).metadata.uid
                if uid != read_of:
                    read_of, lines_read = uid, 0
                some = {} if last is None else {"tail_lines": last}
                stream = self.core.read_namespaced_pod_log(
                    pod, self.namespace, container=self.container, follow=follow, _preload_content=False, **some
                )
                for number, raw in enumerate(stream):
                    if number >= lines_read:
                        lines_read = number + 1
                        yield raw.decode(errors="replace").rstrip("\n")
            except ApiException as error:
                if error.status not in {400, 404}:  # not there, or not started
                    raise
            except urllib3.exceptions.HTTPError:
                if not follow:
                    raise
            if ended:
                return
            stop.wait(1)
