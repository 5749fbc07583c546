"""Checkpoints: written whole or not at all, verified before they are used, the newest good one found again.

A checkpoint is a folder ``step-00000500-1f3a9c2e`` in the store. The number at the end names the process that wrote
it, so that two writers never mix their files. Its manifest, put last, makes it one; without it, it is not there.
Weights, settings and class names are those of an exported model, so that a checkpoint can be used as one. Two
pointers tell which is the newest and which the best; moving them fails for a process whose run another has taken over.
"""

import json
import logging
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from everest.files import sha256
from everest.protocols import CheckpointStore

log = logging.getLogger(__name__)

LATEST, BEST = "latest.json", "best.json"

_MANIFEST = "manifest.json"
_MODEL = "model.safetensors"
_TRAINING = "training.pt"
_KEY = re.compile(r"(step-\d{8}-[0-9a-f]{8})/([\w.-]+)")
_FILE = re.compile(r"\w[\w.-]*")


class Checkpoint(NamedTuple):
    name: str
    step: int
    weights: dict[str, Tensor]
    training: dict[str, Any]  # optimizer state and meters: tensors and plain containers
    texts: dict[str, str]  # the other files by name: settings, class names, the numbers so far


class Checkpoints:
    """A run's checkpoints in a store: the newest ``keep``, and the best. ``scratch`` is for files on their way."""

    def __init__(self, store: CheckpointStore, scratch: Path, keep: int) -> None:
        self.store, self.scratch, self.keep = store, scratch, keep
        self._writer = secrets.token_hex(4)
        self._current: str | None = None
        self._damaged: set[str] = set()
        self._best: dict[str, Any] = {}

    def take_over(self, newest: Checkpoint | None) -> None:
        """Makes this process the run's only writer. Raises Superseded where another does so at the same time."""
        best, _ = self.store.read(BEST), self.store.read(LATEST)
        self._best = json.loads(best) if best else {}
        self._current = newest.name if newest else None
        self._point_to_current()

    def save(self, step: int, weights: dict[str, Tensor], training: dict[str, Any], texts: Mapping[str, str]) -> None:
        """Writes a checkpoint, its manifest last, and removes those there are too many of.

        Raises OSError where the store cannot take it, Superseded where another process has taken over.
        """
        name = f"step-{step:08d}-{self._writer}"
        with self._folder() as folder:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / _MODEL)
            torch.save(training, folder / _TRAINING)
            for file, text in texts.items():
                (folder / file).write_text(text)
            files = {path.name: _seal(path) for path in sorted(folder.iterdir())}
            (folder / _MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
            self.store.delete(f"{name}/{_MANIFEST}")
            for file in (*files, _MANIFEST):
                self.store.put(folder / file, f"{name}/{file}")
        self._current = name
        self._point_to_current()
        self._prune()

    def mark_best(self, metric: str, value: float) -> None:
        """Holds on to the checkpoint last saved or restored if its number is the highest so far."""
        if self._best.get("metric") != metric or value > self._best["value"]:
            self._best = {"checkpoint": self._current, "metric": metric, "value": value}
            self.store.point(BEST, json.dumps(self._best))

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose every sum is right; damaged ones are passed over, and that is said."""
        with self._folder() as folder:
            name = self.fetch_newest(folder)
            return _read(name, folder) if name else None

    def fetch_newest(self, folder: Path) -> str | None:
        """Copies the newest checkpoint that verifies to ``folder``, and returns its name."""
        for name in sorted(self._complete(), reverse=True):
            try:
                self.fetch(name, folder)
            except (OSError, ValueError, KeyError) as error:
                log.warning("checkpoint %s is damaged and passed over: %s", name, error)
                self._damaged.add(name)
                for file in folder.iterdir():
                    file.unlink()
            else:
                return name
        return None

    def fetch(self, name: str, folder: Path) -> None:
        """Copies a checkpoint's files to ``folder``.

        Raises OSError where one is missing, ValueError or KeyError where one is not what the manifest says.
        """
        self.store.get(f"{name}/{_MANIFEST}", folder / _MANIFEST)
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        for file in (_MODEL, _TRAINING, *files):
            if not _FILE.fullmatch(file):
                raise ValueError(f"its manifest names a file {file!r}")
            if not (folder / file).exists():
                self.store.get(f"{name}/{file}", folder / file)
            if _seal(folder / file) != files[file]:
                raise ValueError(f"{file} is not what its manifest says")

    def _point_to_current(self) -> None:
        self.store.point(LATEST, json.dumps({"checkpoint": self._current, "writer": self._writer}))

    def _prune(self) -> None:
        names = sorted(self._complete() - self._damaged)
        alive = {*names[-self.keep :], self._best.get("checkpoint")}
        for name in self._complete() - alive:
            self.store.delete(f"{name}/{_MANIFEST}")
        for key in self.store.list():
            if (found := _KEY.fullmatch(key)) and found[1] not in alive:
                self.store.delete(key)

    def _complete(self) -> set[str]:
        keys = (_KEY.fullmatch(key) for key in self.store.list())
        return {found[1] for found in keys if found and found[2] == _MANIFEST}

    def _folder(self) -> "_Scratch":
        self.scratch.mkdir(parents=True, exist_ok=True)
        return _Scratch(self.scratch)


class _Scratch(tempfile.TemporaryDirectory[str]):
    def __init__(self, parent: Path) -> None:
        super().__init__(dir=parent, prefix=".checkpoint-")

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


def _read(name: str, folder: Path) -> Checkpoint:
    step = json.loads((folder / _MANIFEST).read_text())["step"]
    training = torch.load(folder / _TRAINING, map_location="cpu", weights_only=True)
    others = {path.name for path in folder.iterdir()} - {_MODEL, _TRAINING, _MANIFEST}
    return Checkpoint(
        name, step, load_file(folder / _MODEL), training, {file: (folder / file).read_text() for file in others}
    )


def _seal(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def clear_scratch(scratch: Path) -> None:
    """Removes what a killed run left half-written."""
    for folder in scratch.glob(".checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)
