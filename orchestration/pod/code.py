"""What a pod runs first where code was sent along: ``python -m orchestration.pod.code`` fetches it, and becomes the
worker of that code."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from everest.errors import EverestError, UsageError
from everest.progress import start_logging
from orchestration.code import REQUIREMENTS, fetch
from orchestration.job import CODE, CODE_FOLDER
from orchestration.pod.starts import count_start, hand_on
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

_IMAGE_REQUIREMENTS = "EVEREST_IMAGE_REQUIREMENTS"


def main() -> NoReturn:
    """Exit codes are those of the worker."""
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    start_logging()
    start = None
    try:
        settings = PlatformSettings.load()
        start = count_start(settings, os.environ["EVEREST_JOB"])
        hand_on(start)
        folder = _place(os.environ[CODE], settings, start.let_in)
    except EverestError as error:
        print(f"everest: {error}", file=sys.stderr)
        sys.exit(EverestError.exit_code if start and start.again else error.exit_code)
    os.environ[CODE_FOLDER] = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    os.environ.pop("EVEREST_IMAGE_COMMIT", None)  # the submitter's it is
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # there it can be written, once for all processes
    os.execv(sys.executable, [sys.executable, "-m", "orchestration.pod.worker"])


def _place(digest: str, settings: PlatformSettings, let_in: Sequence[str]) -> Path:
    """Where it is. A container that is started again finds it there. Raises UsageError where the image lacks
    something that it needs."""
    folder = Path(tempfile.gettempdir()) / f"everest-{digest[:16]}"
    if not folder.exists():
        fetch(digest, folder, settings, let_in)
    known = os.environ.get(_IMAGE_REQUIREMENTS)
    if known is None:
        log.warning("the image does not say what it has installed (%s): not compared", _IMAGE_REQUIREMENTS)
    elif _sum(folder / REQUIREMENTS) != _sum(Path(known)):
        raise UsageError(
            f"{REQUIREMENTS} of the code that was sent along is not that of the image {settings.image}: "
            f"make image builds one that has it, with --no-code its own runs"
        )
    return folder


def _sum(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest() if file.exists() else ""


if __name__ == "__main__":
    main()
