"""One process of a job: puts everest's training together with the S3 store and the MLflow tracker.

Rank 0 alone talks to both.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from everest.config import Experiment
from everest.data.workers import start_early
from everest.errors import AgreedError, EverestError, Superseded, UsageError
from everest.files import whole_file
from everest.progress import start_logging
from orchestration.job import AGAIN, EXPERIMENT_FILE, FAULTY, RESULT
from orchestration.pod.faults import is_fault
from orchestration.pod.member import END
from orchestration.settings import PlatformSettings
from orchestration.teams import is_elastic

if TYPE_CHECKING:
    from everest.protocols import Tracker
    from everest.training.distributed import Process
    from orchestration.idle import IdleGpus
    from orchestration.outbox import Outbox
    from orchestration.s3 import S3Store

log = logging.getLogger(__name__)

LAST_WORDS_S = 20  # of the grace, for torchrun and the operating system


def run_rank(*let_in: str) -> int:
    """Its exit code. ``let_in``: the rights that S3 has granted to this job before."""
    start_logging(os.environ["RANK"] == "0")
    try:
        _train(let_in)
    except EverestError as error:
        if os.environ["RANK"] == "0" or not isinstance(error, AgreedError):
            print(f"everest: {error}", file=sys.stderr)
        # Cut-off pods of an elastic job may find the others again.
        return AGAIN if isinstance(error, Superseded) and is_elastic() else error.exit_code
    except Exception as error:
        traceback.print_exc()
        return FAULTY if is_fault(error) else AGAIN
    return 0


def _train(let_in: Sequence[str]) -> None:
    settings = PlatformSettings.load()
    config = Experiment.load(EXPERIMENT_FILE)
    if config.data.workers:
        start_early(config)
    from everest.protocols import NullTracker
    from everest.settings import LocalSettings
    from everest.training.device import choose_device
    from everest.training.distributed import processes
    from everest.training.interrupt import stop_requests
    from everest.training.local import FolderStore
    from everest.training.run import run
    from orchestration.idle import IdleGpus
    from orchestration.pod.news import JobNews, KeptFacts

    folder = settings.work / config.name
    device = choose_device(LocalSettings.load().device, settings.gpus)
    with processes(device) as process, stop_requests() as stop, _s3(settings, config, process, let_in) as s3:
        with process.pulse.during("S3"):
            finished = process.share(process.together(lambda: _finished(s3.store, config) if s3 else None))
        if finished:
            log.info("%s is finished already; choose another --name to run it again", config.name)
            return
        with process.pulse.during("S3"):
            _place_initial_weights(config, settings, process, let_in)
        if s3 is None:
            run(config, folder, FolderStore(folder / "checkpoints"), NullTracker(), process, stop)
            return
        with closing(JobNews(config.name, settings.user, KeptFacts(config.name))) as news:
            idle = IdleGpus(settings, news.idle, stop.ask)
            tracker = _tracker(config, folder, s3.store, settings, idle)
            result = run(config, folder, s3.store, tracker, process, stop, s3.uploads)
        said = json.dumps({"result": asdict(result), "experiment": config.model_dump(mode="json")})
        s3.uploads.add(lambda: s3.store.point(RESULT, said))
    for name, value in sorted(result.metrics.items()):
        print(f"{name:24} {value:.4g}")
    print(f"{'checkpoints':24} {s3.store.address}")


class _S3(NamedTuple):
    store: "S3Store"
    uploads: "Outbox"


@contextmanager
def _s3(
    settings: PlatformSettings, config: Experiment, process: "Process", let_in: Sequence[str]
) -> Iterator[_S3 | None]:
    """For rank 0: the run's store, left when everything is uploaded, or with Away."""
    if not process.main:
        yield None
        return
    from everest.training.interrupt import Interrupted
    from orchestration.s3 import S3Store

    store = S3Store(settings, config.name, let_in)
    store.abort_uploads()
    uploads = store.uploads()
    try:
        try:
            yield _S3(store, uploads)
        except Exception as error:
            soon = isinstance(error, Interrupted) or not isinstance(error, EverestError)
            try:
                _flush(uploads, settings.grace_s - LAST_WORDS_S if soon else settings.patience_s, process)
            except EverestError as left:
                log.error("%s; the run will go on from an earlier checkpoint", left)  # noqa: TRY400
            raise
        _flush(uploads, settings.patience_s, process)
    finally:
        store.close()
        uploads.close()


def _flush(uploads: "Outbox", seconds: float, process: "Process") -> None:
    """Nothing waits for other processes any more, so that it need not end where one of them is lost."""
    signal.signal(END, signal.SIG_IGN)
    with process.pulse.during("S3"):
        uploads.flush(seconds)


def _finished(store: "S3Store", config: Experiment) -> bool:
    """Raises UsageError where the finished run of this name was another experiment."""
    from everest.identity import same_experiment

    said = store.read(RESULT)
    if said:
        try:
            finished = Experiment.parse(json.loads(said)["experiment"])
        except (ValueError, KeyError, TypeError):
            raise EverestError(f"{store.address}{RESULT} is none of a finished run; remove it to go on") from None
        same_experiment(finished, config, f"{config.name} (finished)")
    return said is not None


def _place_initial_weights(
    config: Experiment, settings: PlatformSettings, process: "Process", let_in: Sequence[str]
) -> None:
    """``init: work/NAME`` is the run NAME here too: its newest checkpoint is fetched from S3 to that path."""
    from everest.export import WEIGHTS

    init = config.init
    if init is None or init.parent != settings.work:
        return
    complete = init.exists() and ((init / "model" / WEIGHTS).exists() or not (init / "model").exists())
    if all(process.gather(complete)):  # a pod that was replaced lacks what the others have
        return
    files = process.share(_exported(settings, init.name, let_in) if process.main else None)
    if int(os.environ["LOCAL_RANK"]) == 0:
        for name, content in files.items():
            with whole_file(init / "model" / name) as temporary:
                temporary.write_bytes(content)
    process.gather(None)  # no process reads before every pod has written


def _exported(settings: PlatformSettings, run: str, let_in: Sequence[str]) -> dict[str, bytes]:
    from everest.export import CLASSES, EXPERIMENT, WEIGHTS
    from everest.training.saved import SavedCheckpoints
    from orchestration.s3 import S3Store

    store = S3Store(settings, run, let_in)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if SavedCheckpoints(store, Path(scratch)).fetch_newest(Path(scratch)) is None:
                raise UsageError(
                    f"init {settings.work / run}: neither here nor a run with checkpoints at {store.address}"
                )
            return {name: (Path(scratch) / name).read_bytes() for name in (EXPERIMENT, CLASSES, WEIGHTS)}
    finally:
        store.close()


def _tracker(
    config: Experiment, folder: Path, store: "S3Store", settings: PlatformSettings, idle: "IdleGpus"
) -> "Tracker":
    from everest.training.local import METRICS, JsonLinesTracker, Trackers

    lines = JsonLinesTracker(folder / METRICS)
    if not settings.mlflow_uri:
        log.warning("EVEREST_MLFLOW_URI is not set: numbers are kept with the checkpoints alone")
        return lines
    from orchestration.tracking.connection import connect
    from orchestration.tracking.tracker import MLflowTracker

    names = ("job", "namespace", "pod", "node", "avoids", "image", "submission", "code")
    tags = {f"everest.{name}": os.environ.get(f"EVEREST_{name.upper()}", "") for name in names}
    tags["everest.image_digest"] = tags["everest.image"].partition("@")[2] or "not pinned"
    tags["everest.address"] = store.address
    return Trackers(lines, MLflowTracker(config, folder, store, connect(settings), tags, idle))
