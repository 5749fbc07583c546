"""The two collaborators a training run is given: where checkpoints go, and who is told what happens."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed", "interrupted"]

LATEST, BEST = "latest.json", "best.json"  # pointers to checkpoints


class CheckpointStore(Protocol):
    """Files by key, such as ``step-00000500-1f3a9c2e/model.safetensors``, and a few pointers: short texts.

    A file is there whole or not at all; nothing is promised about several files together, which is why a
    checkpoint's manifest is put last. Called by the main process, from one thread at a time.
    """

    @property
    def address(self) -> str:
        """Where it is, for people."""

    def put(self, file: Path, key: str) -> None:
        """Takes ``file`` over (it is gone from its place afterwards) under ``key``. Raises OSError."""

    def get(self, key: str, file: Path) -> None:
        """Copies what is under ``key`` to ``file``.

        Raises FileNotFoundError or another OSError, ValueError where it came otherwise than it was put.
        """

    def list(self) -> Sequence[str]:
        """All keys, in any order."""

    def delete(self, key: str) -> None:
        """Removes ``key``, or does nothing where it is not there.

        Raises PermissionError where that is not allowed, another OSError where it did not succeed this time.
        """

    def read(self, key: str) -> str | None:
        """What a pointer says; None where there is none. Raises OSError."""

    def point(self, key: str, text: str) -> None:
        """Moves a pointer. Raises Superseded where another process has moved it since it was read or moved here."""


class Queue(Protocol):
    """Does operations one after another, at once or later; an error may be raised by a later call."""

    def submit(self, key: str, operation: Callable[[], None], dropped: Callable[[], None] = lambda: None) -> None:
        """Of operations that wait under one key only the last is done; ``dropped`` is called in place of the others."""


class AtOnce:
    """The queue of a run whose store is near."""

    def submit(self, key: str, operation: Callable[[], None], dropped: Callable[[], None] = lambda: None) -> None:
        operation()


class Tracker(Protocol):
    """Told about a run while it goes. Called from one thread of the main process."""

    def start(self, parameters: Mapping[str, Any], step: int) -> None:
        """The first call: the settings by dotted name, and the step the run continues from (0: from the start)."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers measured after ``step`` optimizer steps; steps come in order, each once."""

    def dataset(self, name: str, source: str, digest: str, videos: int, context: str) -> None:
        """What the run learns from (``context`` training) or is tested on (evaluation)."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file to keep with the run, in place of an earlier one of that name."""

    def model(self, folder: Path, name: str) -> str | None:
        """An exported classifier to register; returns the address ``everest predict`` takes, where there is one."""

    def finish(self, outcome: Outcome) -> None:
        """The last call."""


class NullTracker:
    """Listens and does nothing: for processes other than the first."""

    def start(self, parameters: Mapping[str, Any], step: int) -> None: ...
    def metrics(self, values: Mapping[str, float], step: int) -> None: ...
    def dataset(self, name: str, source: str, digest: str, videos: int, context: str) -> None: ...
    def artifact(self, path: Path, folder: str = "") -> None: ...
    def model(self, folder: Path, name: str) -> str | None:
        return None

    def finish(self, outcome: Outcome) -> None: ...
