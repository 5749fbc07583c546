"""Jobs of a cluster, followed by one watch an operator, however many there are."""

import logging
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from orchestration.cluster.errors import answered
from orchestration.cluster.jobs import Jobs, state_of
from orchestration.cluster.operator import Operator
from orchestration.job import State

log = logging.getLogger(__name__)

_GONE = 410  # the server has forgotten what happened since
_PAUSE_S = 5.0
_WATCH_S = 300  # a watch that got lost unnoticed lasts no longer


class WatchedJobs:
    """Jobs by label: listed once, then told by the API server, in threads of their own."""

    def __init__(self, jobs: Jobs, namespace: str, selector: str) -> None:
        self._jobs, self._api, self._namespace, self._selector = jobs, jobs.api, namespace, selector
        self._states: dict[str, dict[str, State]] = {}  # by operator
        self._lock = threading.Lock()
        self._changed, self._closing = threading.Event(), threading.Event()

    @answered
    def __enter__(self) -> Self:
        for operator in self._jobs.operators:
            version = self._list(operator)
            threading.Thread(target=self._work, args=(operator, version), name="job watch", daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()  # a thread may wait for the server's next word; nobody waits for it

    def states(self) -> Mapping[str, State]:
        with self._lock:
            return {name: state for states in self._states.values() for name, state in states.items()}

    def wait(self, seconds: float) -> None:
        self._changed.wait(seconds)
        self._changed.clear()

    def _work(self, operator: Operator, version: str | None) -> None:
        away = False
        while not self._closing.is_set():
            try:
                version = self._watch(operator, version or self._list(operator))
                away = False
            except (ApiException, HTTPError, OSError) as error:
                if not isinstance(error, ApiException) or error.status != _GONE:
                    if not away:
                        log.warning(
                            "the cluster does not answer (%s); going on, and asking again", type(error).__name__
                        )
                    away = True
                    self._closing.wait(_PAUSE_S)
                version = None

    def _list(self, operator: Operator) -> str:
        found = self._api.list_namespaced_custom_object(*operator.where(self._namespace), label_selector=self._selector)
        with self._lock:
            self._states[operator.kind] = {job["metadata"]["name"]: state_of(job) for job in found["items"]}
        self._changed.set()
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, operator: Operator, version: str) -> str:
        """The last version that it has seen."""
        events = Watch().stream(
            self._api.list_namespaced_custom_object, *operator.where(self._namespace), label_selector=self._selector,
            resource_version=version, timeout_seconds=_WATCH_S, _request_timeout=(10, _WATCH_S + 10),
        )  # fmt: skip
        for event in events:
            if self._closing.is_set():
                break
            job = event["raw_object"]
            name = job["metadata"]["name"]
            with self._lock:
                states = self._states[operator.kind]
                before = states.get(name)
                if event["type"] == "DELETED":
                    states.pop(name, None)
                else:
                    states[name] = state_of(job)
                news = states.get(name) != before
            if news:
                self._changed.set()
            version = str(job["metadata"]["resourceVersion"])
        return version
