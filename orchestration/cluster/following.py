"""Jobs of a cluster, followed by one watch, however many there are."""

import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from orchestration.cluster.errors import answered
from orchestration.cluster.manifest import PYTORCHJOBS
from orchestration.job import State

log = logging.getLogger(__name__)

_GONE = 410  # the server has forgotten what happened since
_PAUSE_S = 5.0
_WATCH_S = 300  # a watch that got lost unnoticed lasts no longer


class WatchedJobs:
    """PyTorchJobs by label: listed once, then told by the API server, in a thread of its own."""

    def __init__(self, api: Any, namespace: str, selector: str, state_of: Callable[[Any], State]) -> None:
        self._api, self._where, self._state_of = api, (*PYTORCHJOBS, namespace, "pytorchjobs"), state_of
        self._selector = selector
        self._states: dict[str, State] = {}
        self._lock = threading.Lock()
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="job watch", daemon=True)

    @answered
    def __enter__(self) -> Self:
        self._version: str | None = self._list()
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()  # the thread may wait for the server's next word; nobody waits for it

    def states(self) -> Mapping[str, State]:
        with self._lock:
            return dict(self._states)

    def wait(self, seconds: float) -> None:
        self._changed.wait(seconds)
        self._changed.clear()

    def _work(self) -> None:
        away = False
        while not self._closing.is_set():
            try:
                if self._version is None:
                    self._version = self._list()
                self._watch(self._version)
                away = False
            except (ApiException, HTTPError, OSError) as error:
                if not isinstance(error, ApiException) or error.status != _GONE:
                    if not away:
                        log.warning(
                            "the cluster does not answer (%s); going on, and asking again", type(error).__name__
                        )
                    away = True
                    self._closing.wait(_PAUSE_S)
                self._version = None

    def _list(self) -> str:
        found = self._api.list_namespaced_custom_object(*self._where, label_selector=self._selector)
        with self._lock:
            self._states = {job["metadata"]["name"]: self._state_of(job) for job in found["items"]}
        self._changed.set()
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> None:
        events = Watch().stream(
            self._api.list_namespaced_custom_object, *self._where, label_selector=self._selector,
            resource_version=version, timeout_seconds=_WATCH_S, _request_timeout=(10, _WATCH_S + 10),
        )  # fmt: skip
        for event in events:
            if self._closing.is_set():
                return
            job = event["raw_object"]
            name = job["metadata"]["name"]
            with self._lock:
                before = self._states.get(name)
                if event["type"] == "DELETED":
                    self._states.pop(name, None)
                else:
                    self._states[name] = self._state_of(job)
                news = self._states.get(name) != before
            self._version = str(job["metadata"]["resourceVersion"])
            if news:
                self._changed.set()
