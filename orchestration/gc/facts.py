"""What is known of the runs in S3 and MLflow and of the jobs there are, for ``rules`` to decide on."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Protocol

import yaml

from everest.training.manifest import CHECKPOINT_KEY, MANIFEST
from orchestration.code import ARCHIVES
from orchestration.gc.archives import unused
from orchestration.gc.files import artifacts_bytes, by_folder, is_run, sizes
from orchestration.gc.records import Record, Records
from orchestration.gc.rules import Facts, Part, Run, State
from orchestration.gc.work import WorkFolder
from orchestration.job import RESULT, RUN_POINTER, STUDY, TRIAL, Launcher, Needs
from orchestration.s3 import Entry, S3Store
from orchestration.settings import PlatformSettings
from orchestration.tracking.presentation import CODE

_EXPERIMENT = "experiment.yaml"  # of a checkpoint


@dataclass(frozen=True)
class Kept:
    """A run with where its parts are."""

    run: Run
    files: Sequence[Entry]  # with keys below the run's folder
    records: Sequence[Record]  # the newest last


class Place(Protocol):
    """Where the runs of one launcher are: a file's key is RUN/KEY, as a run's CheckpointStore has it."""

    @property
    def address(self) -> str:
        """What is before the keys; it ends with a slash."""

    def entries(self, folder: str = "") -> Sequence[Entry]:
        """Of all runs, or of a run as ``RUN/``."""

    def read(self, key: str) -> str | None:
        """What a text says; None where it is not there."""

    def delete(self, key: str) -> None:
        """Raises OSError."""


def place_of(launcher: str, settings: PlatformSettings) -> Place:
    return WorkFolder(settings.work) if launcher == "local" else S3Store(settings, "")


class Shelf:
    """The runs of one place with what MLflow knows of them."""

    def __init__(self, settings: PlatformSettings, launcher: Launcher, place: Place) -> None:
        self.settings, self.launcher = settings, launcher
        self.store, self.records = place, Records(settings)
        self.runs: dict[str, Kept] = {}

    def facts(self) -> Facts:
        """Raises EverestError where anything that has to be known cannot be asked for."""
        now = datetime.now(UTC)
        needs = self.launcher.needs()  # first: who comes later is seen before anything goes
        entries = self.store.entries()
        files, records = by_folder(entries), self.records.all()
        ours = _by_name(records, self.store.address)
        versions = self._versions()
        artifacts = artifacts_bytes(entries, self.store.address)
        for name in sorted({name for name, there in files.items() if is_run(there)} | ours.keys()):
            self.runs[name] = self._kept(name, files.get(name, []), ours.get(name, []), versions, artifacts)
        said = _inits(needs)
        said += [(record.name, record.init) for record in records]
        said += [(name, self._init_of(kept)) for name, kept in self.runs.items() if not kept.records]
        return Facts(
            now=now,
            namespace=self.settings.namespace,
            runs=[kept.run for kept in self.runs.values()],
            jobs=frozenset(needs),
            begun_from=begun_from(said),
            sweeps=self.records.sweeps(),
        )

    def changed(self, name: str) -> str:
        """Why what was decided of the run may not hold any more; empty: it does."""
        kept = self.runs[name]
        needs = self.launcher.needs()
        if name in needs:
            return "a job of its name was submitted"
        if heirs := begun_from(_inits(needs)).get(name, frozenset()) - {name}:
            return f"{min(heirs)} was submitted, which begins from it"
        if set(self.store.entries(f"{name}/")) != {file._replace(key=f"{name}/{file.key}") for file in kept.files}:
            return "its files have changed"
        if any(self.records.versions(record.id) for record in kept.records):
            return "a model version was made of it"
        return ""

    def unused_code(self) -> Sequence[Entry]:
        """Archives that may go, with keys below their folder, after ``facts``: those of the runs that were found stay.

        None goes where runs are known to another MLflow, which alone says what they were submitted with.
        Raises EverestError.
        """
        if not all(kept.run.known for kept in self.runs.values()):
            return []
        needed = {each.code for each in self.launcher.needs().values()}
        needed |= {record.tags.get(CODE, "") for kept in self.runs.values() for record in kept.records}
        folder = f"{ARCHIVES}/"
        entries = (entry._replace(key=entry.key.removeprefix(folder)) for entry in self.store.entries(folder))
        return unused(entries, needed, datetime.now(UTC))

    def _kept(
        self,
        name: str,
        files: Sequence[Entry],
        records: Sequence[Record],
        versions: Mapping[str, Sequence[str]],
        artifacts: Mapping[str, int],
    ) -> Kept:
        newest = records[-1] if records else None
        tags = newest.tags if newest else {}
        there: dict[Part, int | None] = {**sizes(files)}
        if newest:
            there["runs"] = there.get("runs", 0)
            if (size := self._artifacts(records, artifacts)) != 0:
                there["artifacts"] = size
        study = tags.get(STUDY, "")
        trial = tags.get(TRIAL, "").rpartition("/")[2]
        made = [*versions.get(name, ()), *(each for record in records for each in versions.get(record.id, ()))]
        run = Run(
            name=name,
            state=_state(files, newest),
            seen=max([file.modified for file in files] + [record.seen for record in records]),
            sizes=there,
            experiment=newest.experiment if newest else "",
            known=bool(records) or self._known(name, files),
            namespaces=frozenset(filter(None, (record.namespace for record in records))),
            study=study,
            trial=int(trial) if trial.isdigit() and name == f"{study}-{trial}" else None,
            versions=tuple(dict.fromkeys(made)),
        )
        return Kept(run, files, records)

    def _versions(self) -> Mapping[str, Sequence[str]]:
        """Of models, by the ids and the names of the runs that they were made of."""
        found: dict[str, list[str]] = defaultdict(list)
        for version, run_id, address in self.records.versions():
            found[run_id].append(version)
            if address.startswith(self.store.address):
                found[address.removeprefix(self.store.address).partition("/")[0]].append(version)
        return found

    def _artifacts(self, records: Iterable[Record], there: Mapping[str, int]) -> int | None:
        """Bytes; None where some are kept elsewhere."""
        if all(record.artifacts.startswith(self.store.address) for record in records):
            return sum(there.get(record.artifacts, 0) for record in records)
        return None

    def _known(self, name: str, files: Iterable[Entry]) -> bool:
        """Whether the run that its files name is one of this MLflow, or they name none."""
        if not any(file.key == RUN_POINTER for file in files):
            return True
        said = _read(self.store, f"{name}/{RUN_POINTER}")
        return isinstance(said, dict) and self.records.exists(str(said.get("run")))

    def _init_of(self, kept: Kept) -> str:
        """As the files of a run say it."""
        keys = {file.key for file in kept.files}
        whole = [key[1] for file in keys if (key := CHECKPOINT_KEY.fullmatch(file)) and key[2] == MANIFEST]
        if RESULT in keys and isinstance(said := _read(self.store, f"{kept.run.name}/{RESULT}"), dict):
            experiment = said.get("experiment")
        elif whole:
            experiment = _read(self.store, f"{kept.run.name}/{max(whole)}/{_EXPERIMENT}")
        else:
            return ""
        return str(experiment.get("init") or "") if isinstance(experiment, dict) else ""


def _inits(needs: Mapping[str, Needs]) -> list[tuple[str, str]]:
    return [(name, init) for name, each in needs.items() for init in each.inits]


def begun_from(inits: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """By run, who may mean it by an ``init`` such as work/NAME: whoever has the name in that path."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, init in inits:
        for part in PurePath(init).parts:
            found[part].add(name)
    return {part: frozenset(names) for part, names in found.items()}


def _by_name(records: Iterable[Record], address: str) -> dict[str, list[Record]]:
    """Those whose checkpoints are at this address."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.began):
        name = record.address.removeprefix(address).rstrip("/")
        if record.address.startswith(address) and re.fullmatch(r"[^/]+", name):
            found[name].append(record)
    return found


def _state(files: Iterable[Entry], newest: Record | None) -> State:
    if any(file.key == RESULT for file in files) or (newest and newest.status == "FINISHED"):
        return "finished"
    return "failed" if newest and newest.status == "FAILED" else "unfinished"


def _read(store: Place, key: str) -> Any:
    """What a file of JSON or YAML says; None where it says nothing."""
    try:
        return yaml.safe_load(store.read(key) or "")
    except yaml.YAMLError:
        return None
