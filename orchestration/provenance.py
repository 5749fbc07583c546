"""Which code runs: what the image was made of, else what the submitter had, else what git says of a checkout."""

import os
import shutil
import subprocess
from pathlib import Path

_HOME = Path(__file__).parent


def commit() -> str | None:
    """The commit's id, with ``-dirty`` where files are changed; None where nobody knows."""
    for known in ("EVEREST_IMAGE_COMMIT", "EVEREST_COMMIT"):
        if given := os.environ.get(known):
            return given
    if not shutil.which("git") or (found := _git("rev-parse", "HEAD")) is None:
        return None
    return f"{found}-dirty" if _git("status", "--porcelain") else found


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=_HOME, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()
