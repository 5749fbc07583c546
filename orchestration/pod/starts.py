"""How often a pod has begun without getting further: counted in S3, before anything heavy is imported.

What ends a pod at once, as too little memory for the imports does, is counted so too. Each pod of a job counts for
itself: they all begin anew with each start of the job.
"""

import json
import logging
import os
from typing import NamedTuple

from pydantic import BaseModel

from everest.errors import EverestError, Superseded, UsageError
from everest.protocols import LATEST
from everest.training.manifest import Latest, said
from orchestration.s3 import POINTING, S3Store
from orchestration.s3_errors import RIGHTS
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

_HANDED_ON = "EVEREST_START"
_ATTEMPTS = 5  # where this pod's predecessor is counting still


class Start(NamedTuple):
    again: bool  # the job has run before
    let_in: tuple[str, ...]  # rights that S3 has granted it


class Starts(BaseModel):
    """What is kept in S3."""

    submission: str = ""
    checkpoint: str | None = None
    starts: int = 0


def hand_on(start: Start) -> None:
    """To the program that this process is going to be."""
    os.environ[_HANDED_ON] = json.dumps(start)


def counted_start(settings: PlatformSettings, run: str) -> Start:
    """The one that was handed on, for the first time; else as ``count_start``."""
    if handed := os.environ.pop(_HANDED_ON, None):
        again, let_in = json.loads(handed)
        return Start(bool(again), tuple(let_in))
    return count_start(settings, run)


def count_start(settings: PlatformSettings, run: str) -> Start:
    """Raises EverestError where this submission has started too often without a new checkpoint in between.

    S3 is waited for, for as long as the settings' patience; where it does not let in a job that has run before, too.
    Raises UsageError where it does not let in a new one, Away where it stays away.
    """
    try:
        return _counted(S3Store(settings, run), settings.backoff_limit)
    except UsageError as refused:
        if not settings.s3_bucket or not _has_run(settings):
            raise
        log.warning("%s; the job has run before, so that may pass", refused)
        return _counted(S3Store(settings, run, RIGHTS.values()), settings.backoff_limit)


def _counted(store: S3Store, limit: int) -> Start:
    try:
        for _ in range(_ATTEMPTS):
            try:
                return _count(store, limit)
            except Superseded:
                log.warning("the pod before this one is counting its starts still")
        return _count(store, limit)
    finally:
        store.close()


def _count(store: S3Store, limit: int) -> Start:
    key = f"starts/{os.environ.get('PET_NODE_RANK', '0')}.json"
    submission = os.environ.get("EVEREST_SUBMISSION", "")
    checkpoint = (said(Latest, store.read(LATEST)) or Latest()).checkpoint
    before = said(Starts, store.read(key)) or Starts()
    again = bool(before.starts) and before.submission == submission
    starts = before.starts + 1 if again and before.checkpoint == checkpoint else 1
    if starts > limit + 1:
        raise EverestError(
            f"started {starts - 1} times without getting further than {checkpoint or 'the beginning'} "
            f"(EVEREST_BACKOFF_LIMIT {limit}); see what ended it above, or kubectl describe the job; submit to go on"
        )
    now = Starts(submission=submission, checkpoint=checkpoint, starts=starts).model_dump_json()
    store.patiently(lambda: store.point(key, now))
    return Start(again, tuple(RIGHTS.values() if again else POINTING))


def _has_run(settings: PlatformSettings) -> bool:
    """Whether MLflow has a run of this submission, or cannot say: then S3 had let it in."""
    if not settings.mlflow_uri:
        return False
    from orchestration.tracking.runs import Runs

    try:
        return Runs(settings).submitted(os.environ.get("EVEREST_SUBMISSION", ""))
    except EverestError as error:
        log.warning("whether the job has run before is not known: %s", error)
        return True
