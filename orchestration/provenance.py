"""Which code runs, and for what: told by the image, else by who submitted it, else by git."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from orchestration.job import CODE_FOLDER

TAGS = "EVEREST_TAGS"
CHANGES = ".everest/changes.patch"

_HOME = Path(__file__).parent


def commit() -> str | None:
    """The commit's id, with ``-dirty`` where files are changed; None where nobody knows."""
    for known in ("EVEREST_IMAGE_COMMIT", "EVEREST_COMMIT"):
        if given := os.environ.get(known):
            return given
    if not shutil.which("git") or (found := _git("rev-parse", "HEAD")) is None:
        return None
    return f"{found}-dirty" if _git("status", "--porcelain") else found


def changes() -> Path | None:
    """The patch from the commit to the code that was sent along; None where there is none."""
    file = Path(os.environ.get(CODE_FOLDER, "/nowhere")) / CHANGES
    return file if file.exists() else None


def given_tags() -> dict[str, str]:
    """What the submitter wants the run in MLflow to be tagged with."""
    return dict(json.loads(os.environ.get(TAGS, "{}")))


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=_HOME, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()
