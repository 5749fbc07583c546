"""A shell, one command, or files, where a process of a job runs: ``kubectl exec``, which knows terminals."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from everest.errors import UsageError
from orchestration.job import Unreachable
from orchestration.settings import PlatformSettings

_SHELL = ("sh", "-c", "command -v bash >/dev/null && exec bash || exec sh")
_NO_FILE = 66  # exit code: os.EX_NOINPUT


def become_shell(settings: PlatformSettings, pod: str, command: Sequence[str]) -> NoReturn:
    """This process becomes it. Raises UsageError where there is no kubectl."""
    words = exec_command(settings, pod, command, sys.stdin.isatty() and sys.stdout.isatty())
    _require_kubectl(words)
    os.execvp(words[0], words)


class PodFolder:
    """A run's folder in a pod, whose image has a shell. Every call raises UsageError where there is no kubectl."""

    def __init__(self, settings: PlatformSettings, pod: str, folder: Path) -> None:
        self._settings, self._pod, self._folder = settings, pod, folder

    def read(self, name: str) -> bytes | None:
        return self._run(f'[ -e "$1" ] || exit {_NO_FILE}; exec cat "$1"', name)

    def write(self, name: str, content: bytes) -> None:
        self._run('mkdir -p "${1%/*}" && cat > "$1.part" && mv "$1.part" "$1"', name, content)

    def remove(self, name: str) -> None:
        self._run('rm -f "$1"', name)

    def _run(self, script: str, name: str, given: bytes = b"") -> bytes | None:
        """What it prints; None where there is no such file."""
        words = exec_command(self._settings, self._pod, ["sh", "-c", script, "sh", str(self._folder / name)], False)
        _require_kubectl(words)
        done = subprocess.run(words, input=given, capture_output=True, check=False)
        if done.returncode == _NO_FILE:
            return None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise Unreachable(f"{self._pod}: {said[-1]}")
        return done.stdout


def _require_kubectl(words: Sequence[str]) -> None:
    if shutil.which(words[0]) is None:
        raise UsageError(f"kubectl, which reaches into pods, is not on this machine; where it is: {' '.join(words)}")


def exec_command(settings: PlatformSettings, pod: str, command: Sequence[str], terminal: bool) -> list[str]:
    context = ["--context", settings.context] if settings.context else []
    where = ["--namespace", settings.namespace, "--stdin", *(["--tty"] if terminal else [])]
    return ["kubectl", *context, "exec", *where, pod, "--", *(command or _SHELL)]
