"""Looks after the jobs of a namespace, unasked: lets pods go that are lost with their node, keeps jobs from nodes that
are unfit, and removes what ended long ago."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from everest.errors import EverestError
from orchestration.cluster.avoiding import is_lost, unfit_node
from orchestration.cluster.manifest import NAME, OURS
from orchestration.outbox import one_line

log = logging.getLogger(__name__)

_LOOK_S = 10  # between two looks at all pods
_CLEAR_S = 60  # between two looks at all jobs
_PAUSE_S = 1.0
_OVERTAKEN = {404, 409, 410}  # something has changed meanwhile
_PASSING = {*_OVERTAKEN, 429}


class Tending:
    """``avoid`` keeps a job from a node from then on; false where it does already, or the job is gone. ``clear``
    removes jobs that ended long ago, and names them."""

    def __init__(
        self,
        core: k8s.CoreV1Api,
        namespace: str,
        avoid: Callable[[str, str], bool],
        clear: Callable[[], Sequence[str]],
    ) -> None:
        self._core, self._namespace, self._avoid, self._clear = core, namespace, avoid, clear
        self._cleared = -math.inf

    def forever(self) -> NoReturn:
        """A cluster that does not answer is asked again."""
        away = False
        while True:
            try:
                self.watch(self.look())
                away = False
            except (ApiException, HTTPError, OSError, EverestError) as error:
                status = error.status if isinstance(error, ApiException) else 0
                if 400 <= status < 500 and status not in _PASSING:
                    raise
                if not away and status not in _OVERTAKEN:
                    log.warning("the cluster does not answer (%s); asking again", one_line(error))
                away = status not in _OVERTAKEN
                time.sleep(_PAUSE_S)

    def look(self) -> str:
        """At all pods, and now and then at jobs. The version of what it saw."""
        if time.monotonic() > self._cleared + _CLEAR_S:
            for name in self._clear():
                log.info("%s ended long ago, and was removed", name)
            self._cleared = time.monotonic()
        found = self._core.list_namespaced_pod(self._namespace, label_selector=OURS)
        for pod in found.items:
            self._see(pod)
        return str(found.metadata.resource_version)

    def watch(self, version: str) -> None:
        """For some seconds: a pod that failed is there for a moment only."""
        events = Watch().stream(
            self._core.list_namespaced_pod, self._namespace, label_selector=OURS, resource_version=version,
            timeout_seconds=_LOOK_S, _request_timeout=(10, _LOOK_S + 10),
        )  # fmt: skip
        for event in events:
            self._see(event["object"])

    def _see(self, pod: Any) -> None:
        name, job = pod.metadata.name, pod.metadata.labels.get(NAME)
        if job and (node := unfit_node(pod)) and self._avoid(job, node):
            log.warning("%s: %s was unfit for %s; from now on the job's pods avoid it", job, node, name)
        if is_lost(pod, datetime.now(UTC)):
            self._let_go(pod)
            log.warning("%s: %s is lost with its node %s, and was let go", job, name, pod.spec.node_name)

    def _let_go(self, pod: Any) -> None:
        """What may still run there can write no checkpoint any more, once another has taken the run over."""
        options = k8s.V1DeleteOptions(grace_period_seconds=0, preconditions=k8s.V1Preconditions(uid=pod.metadata.uid))
        try:
            self._core.delete_namespaced_pod(pod.metadata.name, self._namespace, body=options)
        except ApiException as error:
            if error.status not in {404, 409}:
                raise
