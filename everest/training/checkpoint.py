"""Checkpoints: written whole or not at all while training goes on, the newest few and the best kept.

A checkpoint is a folder ``step-00000500-1f3a9c2e`` in the store. The number at the end names the process that wrote
it, so that two writers never mix their files. Its manifest, put last, makes it one; without it, it is not there.
Weights, settings and class names are those of an exported model, so that a checkpoint can be used as one. Two
pointers tell which is the newest and which the best; moving them fails for a process whose run another has taken over.
"""

import logging
import math
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from everest.program import one_line
from everest.protocols import BEST, LATEST, AtOnce, CheckpointStore, Queue
from everest.training.background import Background
from everest.training.manifest import MANIFEST, MODEL, TRAINING, Best, Latest, Manifest, Seal, said
from everest.training.saved import SCRATCH, Checkpoint, SavedCheckpoints
from everest.training.sealed import sealed, write_weights
from everest.training.snapshot import Snapshot

log = logging.getLogger(__name__)


class Checkpoints(SavedCheckpoints):
    """A run's checkpoints in a store: the newest ``keep``, and the best.

    What is saved is copied, and written while training goes on. What goes wrong meanwhile is raised by the next call:
    OSError where the disk or the store cannot take it, Superseded where another process has taken over; nothing is
    saved any more from then on. Leaving it as a context waits for what is being written.

    ``queue`` may let files go to the store while the next are written. Where that is slower than checkpoints are
    saved, only the newest of those that wait is taken.
    """

    def __init__(self, store: CheckpointStore, scratch: Path, keep: int, queue: Queue | None = None) -> None:
        super().__init__(store, scratch)
        self.keep = keep
        self.queue = queue or AtOnce()
        self._background, self._snapshot = Background("checkpoints"), Snapshot()
        self._writer = secrets.token_hex(4)
        self._current: str | None = None
        self._best: Best | None = None
        self._there: dict[str, set[str]] = {}  # files by checkpoint, as far as this process may remove them
        self._refused = False

    def take_over(self, newest: Checkpoint | None) -> None:
        """Makes this process the run's only writer; any other will find itself Superseded."""
        self._there = self.listed()
        latest, best = self.store.read(LATEST), self.store.read(BEST)
        self.passed_over |= set((said(Latest, latest) or Latest()).passed_over)
        self._best = said(Best, best)
        if best is not None and not self._best:  # it may be any of them
            self.passed_over |= set(self._there) - {newest.name if newest else ""}
        self._current = newest.name if newest else None
        self.queue.submit("take over", partial(self._point_to, self._current))

    def save(self, step: int, weights: dict[str, Tensor], training: dict[str, Any], texts: Mapping[str, str]) -> None:
        """Copies a checkpoint, to be written and queued for the store.

        There is one copy at a time: where the last is still being written, that is waited for.
        """
        self._background.finish()
        self._current = name = f"step-{step:08d}-{self._writer}"
        weights, training = self._snapshot.take((weights, training))
        self._background.submit(partial(self._write, Checkpoint(name, step, weights, training, dict(texts))))

    def mark_best(self, metric: str, value: float) -> None:
        """Holds on to the checkpoint last saved or restored if its number is the highest so far."""
        assert self._current
        mark = partial(self._mark, self._current, metric, value)
        self._background.submit(partial(self.queue.submit, f"best {self._current}", mark))

    def check(self) -> None:
        """Raises what has gone wrong; waits for nothing."""
        self._background.check()

    def finish(self) -> None:
        """Returns when what was saved is written, and with the queue or in the store."""
        self._background.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.finish()
        except Exception as failed:
            if error is None:
                raise
            if failed is not error:
                log.error("%s; the run will go on from an earlier checkpoint", one_line(failed))  # noqa: TRY400

    def _write(self, checkpoint: Checkpoint) -> None:
        self._snapshot.complete()
        self.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.scratch, prefix=SCRATCH))
        discard = partial(shutil.rmtree, folder)
        try:
            with sealed(folder / MODEL) as model:
                write_weights(checkpoint.weights, model)
            with sealed(folder / TRAINING) as training:
                torch.save(checkpoint.training, training)  # type: ignore[arg-type]  # it takes what can be written to
            files = {MODEL: model.seal, TRAINING: training.seal}
            for name, text in checkpoint.texts.items():
                (folder / name).write_text(text, encoding="utf-8")
                files[name] = Seal.of(folder / name)
            (folder / MANIFEST).write_text(Manifest(step=checkpoint.step, files=files).model_dump_json(indent=1))
            publish = partial(self._publish, checkpoint.name, folder, [*files, MANIFEST])
            self.queue.submit("checkpoint", publish, discard)
        except BaseException:
            discard(ignore_errors=True)
            raise

    def _publish(self, name: str, folder: Path, files: Sequence[str]) -> None:
        """Tried again after an error, it goes on with the files that are left. The manifest comes last."""
        for file in files:
            if (folder / file).exists():
                self.store.put(folder / file, f"{name}/{file}")
                self._there.setdefault(name, set()).add(file)
        self._point_to(name)
        self._prune(name)
        folder.rmdir()

    def _mark(self, name: str, metric: str, value: float) -> None:
        higher = self._best is None or self._best.metric != metric or value > self._best.value
        if higher and math.isfinite(value) and MANIFEST in self._there.get(name, ()):
            best = Best(checkpoint=name, metric=metric, value=value)
            self.store.point(BEST, best.model_dump_json())
            self._best = best

    def _point_to(self, name: str | None) -> None:
        latest = Latest(checkpoint=name, writer=self._writer, passed_over=sorted(self.passed_over))
        self.store.point(LATEST, latest.model_dump_json())

    def _prune(self, newest: str) -> None:
        """Removes what is old, manifests first. What the store holds on to is not asked of it again."""
        good = sorted(name for name, files in self._there.items() if MANIFEST in files and name not in self.passed_over)
        alive = {*good[-self.keep :], newest, *self.passed_over, *([self._best.checkpoint] if self._best else [])}
        try:
            for name in set(self._there) - alive:
                self._remove(name)
        except OSError as error:
            self._say_kept(error)  # the next save tries again

    def _remove(self, name: str) -> None:
        try:
            for file in sorted(self._there[name], key=lambda file: file != MANIFEST):
                self.store.delete(f"{name}/{file}")
                self._there[name].discard(file)
        except PermissionError as error:
            self._say_kept(error)
        del self._there[name]

    def _say_kept(self, error: OSError) -> None:
        if not self._refused:
            log.warning("old checkpoints cannot be removed and stay (%s); new ones are saved all the same", error)
            self._refused = True


def clear_scratch(scratch: Path) -> None:
    """Removes what a killed run left half-written."""
    for folder in scratch.glob(f"{SCRATCH}*"):
        shutil.rmtree(folder, ignore_errors=True)
