"""A shell, or one command, where a process of a job runs: ``kubectl exec``, which knows terminals."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from everest.errors import UsageError
from orchestration.cluster.pods import CONTAINER
from orchestration.settings import PlatformSettings

_SHELL = ("sh", "-c", "command -v bash >/dev/null && exec bash || exec sh")


def become_shell(settings: PlatformSettings, pod: str, command: Sequence[str]) -> NoReturn:
    """This process becomes it. Raises UsageError where there is no kubectl."""
    words = exec_command(settings, pod, command, sys.stdin.isatty() and sys.stdout.isatty())
    if shutil.which(words[0]) is None:
        raise UsageError(f"kubectl, which opens shells, is not on this machine; where it is: {' '.join(words)}")
    os.execvp(words[0], words)


def exec_command(settings: PlatformSettings, pod: str, command: Sequence[str], terminal: bool) -> list[str]:
    context = ["--context", settings.context] if settings.context else []
    where = ["--namespace", settings.namespace, "--stdin", *(["--tty"] if terminal else [])]
    return ["kubectl", *context, "exec", *where, pod, "--container", CONTAINER, "--", *(command or _SHELL)]
