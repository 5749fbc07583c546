"""The collaborators of a run on this machine: checkpoints in a folder, metrics as JSON lines."""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everest.errors import Superseded
from everest.files import locked, naming, publish, whole_file, write_text
from everest.protocols import NullTracker, Outcome, Tracker

METRICS = "metrics.jsonl"


class FolderStore:
    """Checkpoints as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, str | None] = {}

    @property
    def address(self) -> str:
        return str(self.folder)

    def put(self, file: Path, key: str) -> None:
        publish(file, self.folder / key)

    def get(self, key: str, file: Path) -> None:
        if not (self.folder / key).is_file():  # a folder, a pipe
            raise FileNotFoundError(f"{self.folder / key} is not there, or no file")
        with whole_file(file) as temporary:
            shutil.copyfile(self.folder / key, temporary)

    def list(self) -> Sequence[str]:
        """Raises OSError where a folder cannot be looked into."""
        if not self.folder.exists():
            return []
        found = (Path(folder) / file for folder, _, files in os.walk(self.folder, onerror=_raise) for file in files)
        files = (path for path in found if path.is_file() and not path.name.startswith("."))
        return [path.relative_to(self.folder).as_posix() for path in files]

    def delete(self, key: str) -> None:
        path = self.folder / key
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()

    def read(self, key: str) -> str | None:
        path = self.folder / key
        self._seen[key] = path.read_text(encoding="utf-8") if path.exists() else None
        return self._seen[key]

    def point(self, key: str, text: str) -> None:
        with locked(self.folder / ".lock"):
            expected = self._seen.get(key)
            if self.read(key) != expected:
                raise Superseded(f"another process continues the run in {self.folder}; this one stops")
            write_text(self.folder / key, text)
        self._seen[key] = text


def _raise(error: OSError) -> None:
    raise error


class JsonLinesTracker(NullTracker):
    """One line per report in a file, with the time in ms; a resumed run drops what is past its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._logged: dict[str, float] = {}

    def start(self, parameters: Mapping[str, Any], step: int) -> None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        kept = [line for line in lines if _record(line)["step"] <= step]
        write_text(self.file, "".join(f"{line}\n" for line in kept))
        self._logged = {key: _record(line)["step"] for line in kept for key in _record(line)}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        fresh = {key: value for key, value in values.items() if step > self._logged.get(key, -1)}
        if fresh:
            with naming(self.file), self.file.open("a") as stream:
                stream.write(json.dumps({"step": step, "time": int(time.time() * 1000), **fresh}) + "\n")


def _record(line: str) -> dict[str, float]:
    """What a line says; one that was cut off belongs to no step that is kept."""
    try:
        return dict(json.loads(line))
    except json.JSONDecodeError:
        return {"step": float("inf")}


class Trackers:
    """Several trackers told the same."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers = trackers

    def start(self, parameters: Mapping[str, Any], step: int) -> None:
        for tracker in self.trackers:
            tracker.start(parameters, step)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.metrics(values, step)

    def dataset(self, name: str, source: str, digest: str, videos: int, context: str) -> None:
        for tracker in self.trackers:
            tracker.dataset(name, source, digest, videos, context)

    def artifact(self, path: Path, folder: str = "") -> None:
        for tracker in self.trackers:
            tracker.artifact(path, folder)

    def model(self, folder: Path, name: str) -> str | None:
        addresses = [tracker.model(folder, name) for tracker in self.trackers]
        return next((address for address in addresses if address), None)

    def finish(self, outcome: Outcome) -> None:
        for tracker in self.trackers:
            tracker.finish(outcome)
