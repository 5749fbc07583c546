"""The runs of this machine's work folder, as gc sees those in S3: NAME/step-…/FILE is NAME/checkpoints/step-…/FILE."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from everest.training.local import FolderStore
from orchestration.job import RESULT, RUN_POINTER
from orchestration.s3 import Entry

_CHECKPOINTS = "checkpoints"
_BESIDE = (RESULT, RUN_POINTER)  # them


class WorkFolder:
    """A Place. Exported models, pictures and numbers of a run are none of its files here."""

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()
        self.address = f"{self.work}/"

    def entries(self, folder: str = "") -> Sequence[Entry]:
        runs = [self.work / folder] if folder else [run for run in self.work.iterdir() if run.is_dir()]
        return sorted(entry for run in runs for entry in self._of(run))

    def read(self, key: str) -> str | None:
        file = self._file(key)
        return file.read_text(encoding="utf-8") if file.exists() else None

    def delete(self, key: str) -> None:
        name, _, below = key.partition("/")
        FolderStore(self._folder(name, below)).delete(below)

    def _of(self, run: Path) -> Iterator[Entry]:
        """What goes meanwhile is not there."""
        for key in (*_BESIDE, *FolderStore(run / _CHECKPOINTS).list()):
            with suppress(FileNotFoundError):
                there = self._file(f"{run.name}/{key}").stat()
                modified = datetime.fromtimestamp(there.st_mtime, UTC)
                yield Entry(f"{run.name}/{key}", there.st_size, modified, str(there.st_mtime_ns))

    def _file(self, key: str) -> Path:
        name, _, below = key.partition("/")
        return self._folder(name, below) / below

    def _folder(self, name: str, below: str) -> Path:
        return self.work / name if below in _BESIDE else self.work / name / _CHECKPOINTS
