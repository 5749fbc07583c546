"""Checkpoints: written whole or not at all, verified before they are used, the newest good one found again.

A checkpoint is a folder ``step-00000500-1f3a9c2e`` in the store. The number at the end names the process that wrote
it, so that two writers never mix their files. Its manifest, put last, makes it one; without it, it is not there.
Weights, settings and class names are those of an exported model, so that a checkpoint can be used as one. Two
pointers tell which is the newest and which the best; moving them fails for a process whose run another has taken over.

Who reads destroys nothing: what is wrong is fetched again, what stays wrong is passed over and kept, and where nothing
can be used a run stops.
"""

import logging
import math
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from everest.errors import EverestError
from everest.protocols import BEST, LATEST, AtOnce, CheckpointStore, Queue
from everest.training.manifest import MANIFEST, MODEL, TRAINING, Best, Damaged, Latest, Manifest, Seal, said

log = logging.getLogger(__name__)

_SCRATCH = ".checkpoint-"
_KEY = re.compile(r"(step-\d{8}-[0-9a-f]{8})/([\w.-]+)")
_ATTEMPTS = 3  # to fetch a file as it was saved
_SHOWN = 5

T = TypeVar("T")


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
        self._best: Best | None = None
        self._passed_over: set[str] = set()
        self._there: dict[str, set[str]] = {}  # files by checkpoint, as far as this process may remove them
        self._refused = False

    def take_over(self, newest: Checkpoint | None) -> None:
        """Makes this process the run's only writer; any other will find itself Superseded."""
        self._there = self._listed()
        latest, best = self.store.read(LATEST), self.store.read(BEST)
        self._passed_over |= set((said(Latest, latest) or Latest()).passed_over)
        self._best = said(Best, best)
        if best is not None and not self._best:  # it may be any of them
            self._passed_over |= set(self._there) - {newest.name if newest else ""}
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
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / MODEL)
            torch.save(training, folder / TRAINING)
            for file, text in texts.items():
                (folder / file).write_text(text, encoding="utf-8")
            files = {path.name: Seal.of(path) for path in sorted(folder.iterdir())}
            (folder / MANIFEST).write_text(Manifest(step=step, files=files).model_dump_json(indent=1))
            self.queue.submit("checkpoint", partial(self._publish, name, folder, [*files, MANIFEST]), discard)
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
        latest = Latest(checkpoint=name, writer=self._writer, passed_over=sorted(self._passed_over))
        self.store.point(LATEST, latest.model_dump_json())

    def newest(self, use: Callable[[Checkpoint], None] = lambda _: None) -> Checkpoint | None:
        """The newest checkpoint that is whole and has finite weights, and that ``use`` does not fail with.

        Others are passed over, and that is said. Raises EverestError where there are some and none of them will do.
        """

        def read(name: str, folder: Path) -> Checkpoint:
            checkpoint = self._read(name, folder)
            use(checkpoint)
            return checkpoint

        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix=_SCRATCH) as scratch:
            return self._first_good(Path(scratch), read)

    def fetch_newest(self, folder: Path) -> str | None:
        """Copies the newest checkpoint that verifies to ``folder``, and returns its name. Raises EverestError."""

        def fetch(name: str, folder: Path) -> str:
            self.fetch(name, folder)
            return name

        return self._first_good(folder, fetch)

    def _first_good(self, folder: Path, take: Callable[[str, Path], T]) -> T | None:
        failed: dict[str, str] = {}
        newest = (said(Latest, self.store.read(LATEST)) or Latest()).checkpoint
        if newest and newest not in self._complete():
            failed[newest] = "it is not there any more"
            log.warning("checkpoint %s was the newest, and is not there any more", newest)
        while names := self._complete() - set(failed):  # an earlier process may still be saving and removing
            for name in sorted(names, reverse=True):
                try:
                    with _as_damage():
                        return take(name, folder)
                except (FileNotFoundError, Damaged) as error:
                    log.warning("checkpoint %s is damaged and passed over: %s", name, error)
                    failed[name] = str(error)
                    self._passed_over.add(name)
                    for file in folder.iterdir():
                        file.unlink()
        if failed:
            shown = "; ".join(f"{name}: {why}" for name, why in list(failed.items())[:_SHOWN])
            raise EverestError(
                f"none of the {len(failed)} checkpoints in {self.store.address} can be used ({shown}); nothing is "
                f"begun anew over them: put back what they were, choose another --name, or move all of it away"
            )
        return None

    def fetch(self, name: str, folder: Path) -> None:
        """Copies a checkpoint's files to ``folder``; what is wrong may be so on its way only, and is fetched again.

        Raises FileNotFoundError where one is missing, Damaged where one is not what it should be.
        """
        with _as_damage():
            try:
                self._fetch(name, folder)
            except (FileNotFoundError, Damaged):  # it may have been the manifest
                self._fetch(name, folder)
            _require_finite(folder / MODEL)

    def _fetch(self, name: str, folder: Path) -> None:
        manifest = self._fetch_file(f"{name}/{MANIFEST}", folder, lambda file: Manifest.read(file, _step_of(name)))
        for file, seal in manifest.files.items():
            if not (folder / file).exists() or Seal.of(folder / file) != seal:
                self._fetch_file(f"{name}/{file}", folder, seal.require)

    def _fetch_file(self, key: str, folder: Path, read: Callable[[Path], T]) -> T:
        file = folder / key.partition("/")[2]
        for _ in range(_ATTEMPTS - 1):
            try:
                self.store.get(key, file)
                return read(file)
            except (FileNotFoundError, ValueError) as error:
                log.warning("%s is fetched again: %s", key, error)
        self.store.get(key, file)
        return read(file)

    def _read(self, name: str, folder: Path) -> Checkpoint:
        self.fetch(name, folder)
        training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
        if not isinstance(training, dict):
            raise Damaged(f"{TRAINING} holds a {type(training).__name__}")
        others = {path.name for path in folder.iterdir()} - {MODEL, TRAINING, MANIFEST}
        texts = {file: (folder / file).read_text(encoding="utf-8") for file in others}
        return Checkpoint(name, _step_of(name), load_file(folder / MODEL), training, texts)

    def _prune(self, newest: str) -> None:
        """Removes what is old, manifests first. What the store holds on to is not asked of it again."""
        good = sorted(
            name for name, files in self._there.items() if MANIFEST in files and name not in self._passed_over
        )
        alive = {*good[-self.keep :], newest, *self._passed_over, *([self._best.checkpoint] if self._best else [])}
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

    def _complete(self) -> set[str]:
        return {name for name, files in self._listed().items() if MANIFEST in files}

    def _listed(self) -> dict[str, set[str]]:
        """The files of each checkpoint, whole or not."""
        there: dict[str, set[str]] = {}
        for key in self.store.list():
            if found := _KEY.fullmatch(key):
                there.setdefault(found[1], set()).add(found[2])
        return there


def _step_of(name: str) -> int:
    return int(name[5:13])


@contextmanager
def _as_damage() -> Iterator[None]:
    """Whatever the content of a file raises is damage; that a disk or a server fails is not."""
    try:
        yield
    except (OSError, MemoryError, EverestError, Damaged):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(lines[0][:300]) from None


def _require_finite(weights: Path) -> None:
    """Raises Damaged: a run that went on from NaN would never find back."""
    with safe_open(weights, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if not tensors.get_tensor(name).isfinite().all():
                raise Damaged(f"{name} has values that are not finite")


def clear_scratch(scratch: Path) -> None:
    """Removes what a killed run left half-written."""
    for folder in scratch.glob(f"{_SCRATCH}*"):
        shutil.rmtree(folder, ignore_errors=True)
