"""What whoever submitted a job wants to know of it: that it runs at last, that it stood still, how it ended."""

import json
import logging
import math
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from everest.errors import EverestError, Superseded
from everest.machine import node
from everest.training.manifest import said
from orchestration.job import MLFLOW_PAGES, RESULT, RUN_POINTER, SUBMITTED
from orchestration.notifier import Notifier
from orchestration.outbox import one_line
from orchestration.pod.standstill import Stall
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from orchestration.tracking.presentation import results, run_page
from orchestration.watch import lasting, telling
from orchestration.webhook import Event, News

log = logging.getLogger(__name__)

_LONG_S = 60.0  # of waiting, from which on it is news that it is over
_PATIENCE_S = 5
_TOLD = "told.json"  # in S3
_ATTEMPTS = 5  # where other pods tell at the same time

T = TypeVar("T")


class Facts(Protocol):
    """Of a run. Each may raise EverestError."""

    def first(self, what: str) -> bool:
        """Whether nobody has told this of the job yet; nobody else will, then."""

    def numbers(self) -> Mapping[str, float]:
        """Of the finished run."""

    def page(self) -> str:
        """Its address in MLflow; empty where there is none."""


class JobNews:
    """Tells them, each once however many pods the job has. Nothing waits for that, and nothing fails by it."""

    def __init__(self, run: str, user: str, facts: Facts) -> None:
        self._run, self._user, self._facts = run, user, facts
        self._notifier = Notifier()

    def began(self) -> None:
        """Where that took long."""
        submitted = float(os.environ.get(SUBMITTED, "inf"))
        waited_s = time.time() - submitted
        if waited_s >= _LONG_S:
            self._tell("started", f"runs now, on {node()}, after {lasting(waited_s)} of waiting")

    def stalled(self, stall: Stall) -> None:
        self._tell("stalled", stall.line, f"stalled at {stall.step}")

    def idle(self, line: str) -> None:
        self._tell("idle", line)

    def ended(self, code: int, line: str) -> None:
        """With this exit code; ``line``: why, where that was no success."""
        if code:
            self._tell("failed", f"failed: {line}")
        else:
            self._tell("finished", "finished")

    def close(self) -> None:
        self._notifier.close()

    def _tell(self, event: Event, what: str, once: str = "") -> None:
        self._notifier.tell(lambda: self._news(event, what, once or event))

    def _news(self, event: Event, what: str, once: str) -> News | None:
        if not _known(lambda: self._facts.first(once), True):  # better twice than never
            return None
        known: Mapping[str, float] = _known(self._facts.numbers, {}) if event == "finished" else {}
        numbers = {name: value for name, value in known.items() if math.isfinite(value)}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in results(numbers).items())
        what = f"{what}: {shown}" if shown else what
        return News(event, self._run, self._user, what, numbers, _known(self._facts.page, ""))


def last_line(lines: Sequence[str]) -> str:
    """Of a failed job: what was said for a person, else what was said last."""
    words = telling(lines)
    return re.sub(r"^\[rank \d+\] (everest: )?", "", words[-1]).strip() if words else "it said nothing"


def _known(ask: Callable[[], T], otherwise: T) -> T:
    try:
        return ask()
    except Exception as error:  # whatever a store says, the news are to be told
        log.warning("news of this run are told without all that belongs to them: %s", one_line(error))
        return otherwise


class Told(BaseModel):
    """What is kept in S3."""

    submission: str = ""
    told: list[str] = []
    by: str = ""  # whom the last was told by: two who write the same are told apart


class KeptFacts:
    """Of a job of a cluster: what it has in S3."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._submission, self._by = os.environ.get("EVEREST_SUBMISSION", ""), uuid.uuid4().hex

    def first(self, what: str) -> bool:
        store = self._store
        for _ in range(_ATTEMPTS):
            before = said(Told, store.read(_TOLD)) or Told()
            told = before.told if before.submission == self._submission else []
            if what in told:
                return False
            try:
                now = Told(submission=self._submission, told=[*told, what], by=self._by)
                store.point(_TOLD, now.model_dump_json())
            except Superseded:
                continue
            return True
        raise EverestError(f"{store.address}{_TOLD} is always another's")

    def numbers(self) -> Mapping[str, float]:
        return _json(self._store, RESULT).get("result", {}).get("metrics", {})

    def page(self) -> str:
        run = _json(self._store, RUN_POINTER)
        server = os.environ.get(MLFLOW_PAGES, "")
        return run_page(server, run["experiment"], run["run"]) if run and server else ""

    @cached_property
    def _store(self) -> S3Store:
        """Made once: the last news have seconds. Raises UsageError."""
        return S3Store(PlatformSettings.load(patience_s=_PATIENCE_S), self._run)


def _json(store: S3Store, key: str) -> dict[str, Any]:
    return dict(json.loads(store.read(key) or "{}"))


class LocalFacts:
    """Of a job of this machine: what it has in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def first(self, what: str) -> bool:
        return True

    def numbers(self) -> Mapping[str, float]:
        return dict(json.loads((self._folder / RESULT).read_text())["metrics"])

    def page(self) -> str:
        return ""
