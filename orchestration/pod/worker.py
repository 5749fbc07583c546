"""What a pod runs: ``python -m orchestration.pod.worker`` starts the pod's processes, and again where they break down.

Exit codes are for the training operator: from 128 on a pod is replaced, below it the job has failed.
"""

import logging
import sys
import time
from typing import NoReturn

from everest.errors import EverestError
from everest.progress import start_logging
from orchestration.job import AGAIN
from orchestration.pod.rank import LAST_WORDS_S, run_rank
from orchestration.pod.torchrun import torchrun
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

_EARLY_S, _MOST_EARLY = 120, 8


def main() -> NoReturn:
    """Rank 0 counts starts, and ends what leads nowhere."""
    start_logging()
    settings = PlatformSettings.load()
    early = 0
    while True:
        started = time.monotonic()
        code = torchrun([], run_rank, [], settings.grace_s - LAST_WORDS_S)
        if code != AGAIN:
            sys.exit(code)
        early = early + 1 if time.monotonic() - started < _EARLY_S else 0
        if early > _MOST_EARLY:
            log.error("broke down %d times within %d s of its start; giving up", early, _EARLY_S)
            sys.exit(EverestError.exit_code)
        log.warning("a process broke down; starting again from the newest checkpoint")
        time.sleep(min(60, 2**early))


if __name__ == "__main__":
    main()
