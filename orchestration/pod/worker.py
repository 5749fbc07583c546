"""What a pod runs: ``python -m orchestration.pod.worker`` starts the pod's processes, and again where they break down.

Exit codes are for the training operator: from 128 on a pod is replaced, below it the job has failed.
"""

import logging
import os
import signal
import sys
import time
import traceback
from contextlib import closing
from functools import partial
from typing import NoReturn

from everest.config import Experiment
from everest.errors import EverestError, Unfit, UsageError
from everest.machine import node
from everest.progress import start_logging
from orchestration.job import AGAIN, EXPERIMENT_FILE, FAULTY, UNFIT
from orchestration.outbox import one_line
from orchestration.pod.keeper import EVERY_S, keeping
from orchestration.pod.meeting import Meetings
from orchestration.pod.meter import metering
from orchestration.pod.news import JobNews, KeptFacts, last_line
from orchestration.pod.output import Output
from orchestration.pod.rank import LAST_WORDS_S, run_rank
from orchestration.pod.secrets import hiding
from orchestration.pod.standstill import Bounds
from orchestration.pod.starts import counted_start
from orchestration.pod.torchrun import load, torchrun
from orchestration.pod.watching import Watch
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from orchestration.teams import is_elastic, team_sizes

log = logging.getLogger(__name__)

_EARLY_S, _MOST_EARLY = 120, 8
_MOST_FAULTS = 2


def main() -> NoReturn:
    with metering(EXPERIMENT_FILE, _pod()) as note:
        code = _main()
        if _pod() == 0 and code < 128:
            note()
            _show_log()
    sys.exit(code)


def _main() -> int:
    """Counts starts, and ends what leads nowhere."""
    prefix = _prefix()
    with Output(hiding(os.environ)) as output:
        start_logging(prefix=prefix)
        run = os.environ.get("EVEREST_JOB", "")
        with closing(JobNews(run, os.environ.get("EVEREST_USER", ""), KeptFacts(run))) as news:
            line = ""
            try:
                code = _work(output, news)
            except EverestError as error:
                print(f"{prefix}everest: {error}", file=sys.stderr)
                code, line = error.exit_code, str(error)
            except Exception as error:
                traceback.print_exc()
                code, line = EverestError.exit_code, f"{type(error).__name__}: {one_line(error)}"
            if code < 128:  # else the pod is replaced
                news.ended(code, line or last_line(output.last_lines()))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do takes seconds
    return code


def _show_log() -> None:
    """In MLflow. That it cannot be shown is no failure of the run."""
    try:
        settings, config = PlatformSettings.load(), Experiment.load(EXPERIMENT_FILE)
        if not settings.mlflow_uri or not settings.s3_bucket:
            return
        if settings.several_pods:
            time.sleep(EVERY_S)  # other pods end now too
        from orchestration.tracking.logs import log_to_mlflow

        log_to_mlflow(settings, config.name)
    except Exception as error:
        log.warning("the log is in S3, and not in MLflow: %s", one_line(error))


def _prefix() -> str:
    """What this says is for those who read its first process's lines; a pod of an elastic job may have any rank."""
    pod = _pod()
    if is_elastic():
        return f"[pod {pod}] "
    return f"[rank {pod * int(os.environ.get('PET_NPROC_PER_NODE', '1'))}] "


def _pod() -> int:
    return int(os.environ.get("PET_NODE_RANK", "0"))


def _begin(output: Output) -> None:
    output.begin(f"{os.environ.get('EVEREST_POD', 'here')} on {node()}")


def _work(output: Output, news: JobNews) -> int:
    """The exit code. That of wrong usage is for a job that has never run: such a one may be removed."""
    _begin(output)
    settings, config = PlatformSettings.load(), Experiment.load(EXPERIMENT_FILE)
    output.end.enter_context(keeping(output.kept, settings, config.name, _pod()))
    early, faults, meetings = 0, 0, None
    watch = Watch(Bounds.of(settings), partial(_keep, settings, config.name), news.stalled)
    while True:
        signal.signal(signal.SIGTERM, _end)
        started = time.monotonic()
        start = counted_start(settings, config.name)
        if not start.again:
            news.began()
        grace_s = settings.grace_s - LAST_WORDS_S
        run = partial(torchrun, entry=run_rank, arguments=start.let_in, grace_s=grace_s, output=output, watch=watch)
        if settings.several_pods:
            sizes = team_sizes(settings, config)
            load()  # no team waits for this pod
            meetings = meetings or Meetings(settings, config.name, sizes, start.let_in)
            code = meetings.work(run)
        else:
            code = run([])
        if code == UsageError.exit_code and start.again:
            return EverestError.exit_code
        if code == FAULTY:
            faults += 1
            if faults == _MOST_FAULTS:
                log.error("%s has broken down %d times by its GPUs; use another machine", node(), faults)
                return UNFIT
        elif code != AGAIN:
            return UNFIT if code == Unfit.exit_code else code
        watch.require_new()
        signal.signal(signal.SIGTERM, _end)
        early = early + 1 if time.monotonic() - started < _EARLY_S else 0
        if early > _MOST_EARLY:
            log.error("broke down %d times within %d s of its start; giving up", early, _EARLY_S)
            return EverestError.exit_code
        log.warning("a process broke down; starting again from the newest checkpoint")
        time.sleep(min(60, 2**early))
        _begin(output)


def _keep(settings: PlatformSettings, run: str, name: str, content: bytes) -> None:
    """In S3, where it answers: nothing waits for that."""
    with closing(S3Store(settings, run)) as store:
        store.write(name, content)


def _end(signum: int, _: object) -> NoReturn:
    """The first process of a container is not ended by a signal that it does not handle."""
    signal.signal(signum, signal.SIG_IGN)
    sys.exit(128 + signum)


if __name__ == "__main__":
    main()
