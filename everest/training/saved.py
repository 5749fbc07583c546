"""The checkpoints that a store holds: verified before they are used, the newest good one found.

Who reads destroys nothing: what is wrong is fetched again, what stays wrong is passed over and kept, and where nothing
can be used a run stops.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils import get_total_norm

from everest.errors import EverestError
from everest.protocols import LATEST, CheckpointStore
from everest.training.manifest import CHECKPOINT_KEY, MANIFEST, MODEL, TRAINING, Damaged, Latest, Manifest, Seal, said
from everest.training.snapshot import map_tensors

log = logging.getLogger(__name__)

SCRATCH = ".checkpoint-"  # how folders of files on their way begin
_ATTEMPTS = 3  # to fetch a file as it was saved
_SHOWN = 5

T = TypeVar("T")


class Checkpoint(NamedTuple):
    name: str
    step: int
    weights: dict[str, Tensor]
    training: dict[str, Any]  # optimizer state and meters: tensors and plain containers
    texts: dict[str, str]  # the other files by name: settings, class names, the numbers so far

    def outline(self) -> "Checkpoint":
        """What is small of it: the training state, its tensors without what they hold, on the meta device."""
        training = map_tensors(self.training, lambda _, tensor: tensor.to("meta"))
        return self._replace(weights={}, training=training, texts={})


class SavedCheckpoints:
    """Those in ``store``; ``scratch`` is a folder for files on their way."""

    def __init__(self, store: CheckpointStore, scratch: Path) -> None:
        self.store, self.scratch = store, scratch
        self.passed_over: set[str] = set()

    def newest(self, use: Callable[[Checkpoint], None] = lambda _: None) -> Checkpoint | None:
        """The newest checkpoint that is whole and has finite weights, and that ``use`` does not fail with.

        Others are passed over, and that is said. Raises EverestError where there are some and none of them will do.
        """

        def read(name: str, folder: Path) -> Checkpoint:
            checkpoint = self._read(name, folder)
            use(checkpoint)
            return checkpoint

        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix=SCRATCH) as scratch:
            return self._first_good(Path(scratch), read)

    def fetch_newest(self, folder: Path) -> str | None:
        """Copies the newest checkpoint that verifies to ``folder``, and returns its name. Raises EverestError."""

        def fetch(name: str, folder: Path) -> str:
            self.fetch(name, folder)
            return name

        return self._first_good(folder, fetch)

    def listed(self) -> dict[str, set[str]]:
        """The files of each checkpoint, whole or not."""
        there: dict[str, set[str]] = {}
        for key in self.store.list():
            if found := CHECKPOINT_KEY.fullmatch(key):
                there.setdefault(found[1], set()).add(found[2])
        return there

    def _complete(self) -> set[str]:
        return {name for name, files in self.listed().items() if MANIFEST in files}

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
                    self.passed_over.add(name)
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
                self._fetch_file(f"{name}/{file}", folder, manifest.require)

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


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether all numbers are, as a scalar on their device, by the largest: sums of squares would overflow."""
    return get_total_norm([tensor for tensor in tensors if tensor.is_floating_point()], math.inf).isfinite()


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
