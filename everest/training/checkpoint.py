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
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from everest.files import sha256
from everest.protocols import AtOnce, CheckpointStore, Queue

log = logging.getLogger(__name__)

LATEST, BEST = "latest.json", "best.json"

_MANIFEST = "manifest.json"
_MODEL = "model.safetensors"
_TRAINING = "training.pt"
_SCRATCH = ".checkpoint-"
_KEY = re.compile(r"(step-\d{8}-[0-9a-f]{8})/([\w.-]+)")
_FILE = re.compile(r"\w[\w.-]*")


class Checkpoint(NamedTuple):
    name: str
    step: int
    weights: dict[str, Tensor]
    training: dict[str, Any]  # optimizer state and meters: tensors and plain containers
    texts: dict[str, str]  # the other files by name: settings, class names, the numbers so far


class Checkpoints:
    """A run's checkpoints in a store: the newest ``keep``, and the best.

    ``scratch`` is a folder for files on their way; ``queue`` may let them go their way while training goes on. Where
    that is slower than checkpoints are saved, only the newest of those that wait is taken.
    """

    def __init__(self, store: CheckpointStore, scratch: Path, keep: int, queue: Queue | None = None) -> None:
        self.store, self.scratch, self.keep = store, scratch, keep
        self.queue = queue or AtOnce()
        self._writer = secrets.token_hex(4)
        self._current: str | None = None
        self._best: dict[str, Any] = {}
        self._damaged: set[str] = set()

    def take_over(self, newest: Checkpoint | None) -> None:
        """Makes this process the run's only writer; any other will find itself Superseded."""
        best, _ = self.store.read(BEST), self.store.read(LATEST)
        self._best = json.loads(best) if best else {}
        self._current = newest.name if newest else None
        self.queue.submit("take over", partial(self._point_to, self._current))

    def save(self, step: int, weights: dict[str, Tensor], training: dict[str, Any], texts: Mapping[str, str]) -> None:
        """Writes a checkpoint and queues its way to the store.

        Raises OSError where the disk or the store cannot take it, Superseded where another process has taken over.
        """
        self._current = name = f"step-{step:08d}-{self._writer}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.scratch, prefix=_SCRATCH))
        discard = partial(shutil.rmtree, folder)
        try:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / _MODEL)
            torch.save(training, folder / _TRAINING)
            for file, text in texts.items():
                (folder / file).write_text(text)
            files = {path.name: _seal(path) for path in sorted(folder.iterdir())}
            (folder / _MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
            self.queue.submit("checkpoint", partial(self._publish, name, folder, [*files, _MANIFEST]), discard)
        except BaseException:
            discard(ignore_errors=True)
            raise

    def mark_best(self, metric: str, value: float) -> None:
        """Holds on to the checkpoint last saved or restored if its number is the highest so far."""
        assert self._current
        self.queue.submit(f"best {self._current}", partial(self._mark, self._current, metric, value))

    def _publish(self, name: str, folder: Path, files: Sequence[str]) -> None:
        """Tried again after an error, it goes on with the files that are left. The manifest comes last."""
        for file in files:
            if (folder / file).exists():
                self.store.put(folder / file, f"{name}/{file}")
        self._point_to(name)
        self._prune(name)
        folder.rmdir()

    def _mark(self, name: str, metric: str, value: float) -> None:
        higher = self._best.get("metric") != metric or value > self._best["value"]
        if higher and name in self._complete():
            best = {"checkpoint": name, "metric": metric, "value": value}
            self.store.point(BEST, json.dumps(best))
            self._best = best

    def _point_to(self, name: str | None) -> None:
        self.store.point(LATEST, json.dumps({"checkpoint": name, "writer": self._writer}))

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose every sum is right and every weight finite; others are passed over, and said."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix=_SCRATCH) as scratch:
            name = self.fetch_newest(Path(scratch))
            return _read(name, Path(scratch)) if name else None

    def fetch_newest(self, folder: Path) -> str | None:
        """Copies the newest checkpoint that verifies to ``folder``, and returns its name."""
        for name in sorted(self._complete(), reverse=True):
            try:
                self.fetch(name, folder)
                _require_finite(folder / _MODEL)
            except (FileNotFoundError, ValueError, KeyError) as error:
                log.warning("checkpoint %s is damaged and passed over: %s", name, error)
                self._damaged.add(name)
                for file in folder.iterdir():
                    file.unlink()
            else:
                return name
        return None

    def fetch(self, name: str, folder: Path) -> None:
        """Copies a checkpoint's files to ``folder``.

        Raises FileNotFoundError where one is missing, ValueError or KeyError where one is not what the manifest says.
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

    def _prune(self, newest: str) -> None:
        names = sorted(self._complete() - self._damaged)
        alive = {*names[-self.keep :], newest, self._best.get("checkpoint")}
        for name in self._complete() - alive:
            self.store.delete(f"{name}/{_MANIFEST}")
        for key in self.store.list():
            if (found := _KEY.fullmatch(key)) and found[1] not in alive:
                self.store.delete(key)

    def _complete(self) -> set[str]:
        keys = (_KEY.fullmatch(key) for key in self.store.list())
        return {found[1] for found in keys if found and found[2] == _MANIFEST}


def _read(name: str, folder: Path) -> Checkpoint:
    step = json.loads((folder / _MANIFEST).read_text())["step"]
    training = torch.load(folder / _TRAINING, map_location="cpu", weights_only=True)
    others = {path.name for path in folder.iterdir()} - {_MODEL, _TRAINING, _MANIFEST}
    return Checkpoint(
        name, step, load_file(folder / _MODEL), training, {file: (folder / file).read_text() for file in others}
    )


def _require_finite(weights: Path) -> None:
    """Raises ValueError: a run that went on from NaN would never find back."""
    with safe_open(weights, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if not tensors.get_tensor(name).isfinite().all():
                raise ValueError(f"{name} has values that are not finite")


def _seal(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def clear_scratch(scratch: Path) -> None:
    """Removes what a killed run left half-written."""
    for folder in scratch.glob(f"{_SCRATCH}*"):
        shutil.rmtree(folder, ignore_errors=True)
