"""Notes in S3 that a pod is there, with how many GPUs, from the beginning of its first process to its end."""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import psutil

from everest.config import Experiment
from everest.errors import EverestError
from everest.machine import node
from orchestration.hours import FOLDER, Stay
from orchestration.job import EXPERIMENT, STUDY
from orchestration.provenance import TAGS
from orchestration.s3 import S3Store
from orchestration.s3_errors import OF_S3, describe
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

EVERY_S = 60.0
_LAST_WORDS_S = 10.0


@contextmanager
def metering(experiment: str, pod: int) -> Iterator[Callable[[], None]]:
    """While this pod runs; gives what notes it at once.

    Does nothing where settings or experiment are wrong: others say so.
    """
    try:
        settings, config = PlatformSettings.load(), Experiment.load(experiment)
        began = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
        meter = Meter(S3Store(settings, FOLDER), stay_of(settings, config, pod, began))
    except EverestError:
        yield lambda: None
        return
    try:
        yield meter.note
    finally:
        meter.close()


def stay_of(settings: PlatformSettings, config: Experiment, pod: int, began: datetime) -> Stay:
    tags = json.loads(os.environ.get(TAGS, "{}"))
    return Stay(
        run=config.name,
        user=os.environ.get("EVEREST_USER", ""),
        experiment=tags.get(EXPERIMENT) or f"{config.dataset}/{config.stage}",
        sweep=tags.get(STUDY, ""),
        pod=pod,
        node=node(),
        gpus=settings.gpus,
        price=settings.gpu_hour_price,
        began=began,
        until=datetime.now(UTC),
    )


class Meter:
    """Writes ``stay`` anew every minute, in a thread of its own; the last minute of a killed pod is not counted."""

    def __init__(self, store: S3Store, stay: Stay, every_s: float = EVERY_S) -> None:
        self._store, self._stay, self._every_s = store, stay, every_s
        self._ending, self._said = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="meter", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(_LAST_WORDS_S)

    def _work(self) -> None:
        with closing(self._store):
            while not self._ending.is_set():
                self.note()
                self._ending.wait(self._every_s)
            self.note()

    def note(self) -> None:
        now = self._stay.model_copy(update={"until": datetime.now(UTC)})
        try:
            self._store.write(now.key, now.model_dump_json().encode())
        except (*OF_S3, OSError, EverestError) as error:
            if not self._said:
                log.warning("GPU hours are not noted for a while: %s", describe(error, self._store.settings))
            self._said = True
        else:
            self._said = False
