"""Checkpoints: written whole or not at all, verified before they are used, the newest good one found again."""

import json
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from everest.files import sha256
from everest.protocols import CheckpointStore

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_MODEL = "model.safetensors"
_TRAINING = "training.pt"
_KEY = re.compile(r"(step-\d{8})/([\w.-]+)")


class Checkpoint(NamedTuple):
    step: int
    weights: dict[str, Tensor]
    training: dict[str, Any]  # optimizer state and meters: tensors and plain containers


class Checkpoints:
    """A run's checkpoints in a store. ``scratch`` is a folder for files on their way."""

    def __init__(self, store: CheckpointStore, scratch: Path, keep: int) -> None:
        self.store, self.scratch, self.keep = store, scratch, keep

    def save(self, step: int, weights: dict[str, Tensor], training: dict[str, Any]) -> None:
        """Writes a checkpoint, its manifest last, and removes those there are too many of."""
        name = f"step-{step:08d}"
        with self._folder() as folder:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / _MODEL)
            torch.save(training, folder / _TRAINING)
            files = {file: _seal(folder / file) for file in (_MODEL, _TRAINING)}
            (folder / _MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
            self.store.delete(f"{name}/{_MANIFEST}")
            for file in (_MODEL, _TRAINING, _MANIFEST):
                self.store.put(folder / file, f"{name}/{file}")
        self._prune()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose every sum is right; damaged ones are passed over, and that is said."""
        for name in sorted(self._complete(), reverse=True):
            try:
                return self._read(name)
            except (OSError, ValueError, KeyError) as error:
                log.warning("checkpoint %s is damaged and passed over: %s", name, error)
        return None

    def _read(self, name: str) -> Checkpoint:
        with self._folder() as folder:
            self.store.get(f"{name}/{_MANIFEST}", folder / _MANIFEST)
            manifest = json.loads((folder / _MANIFEST).read_text())
            for file in (_MODEL, _TRAINING):
                self.store.get(f"{name}/{file}", folder / file)
                if _seal(folder / file) != manifest["files"][file]:
                    raise ValueError(f"{file} is not what its manifest says")
            training = torch.load(folder / _TRAINING, map_location="cpu", weights_only=True)
            return Checkpoint(manifest["step"], load_file(folder / _MODEL), training)

    def _prune(self) -> None:
        names = sorted(self._complete())
        for name in names[: -self.keep]:
            self.store.delete(f"{name}/{_MANIFEST}")
        alive = set(names[-self.keep :])
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


def _seal(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def clear_scratch(scratch: Path) -> None:
    """Removes what a killed run left half-written."""
    for folder in scratch.glob(".checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)
