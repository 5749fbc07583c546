"""A run's files in S3: which part of it each belongs to, and in which order they go. Others' files are left alone."""

import re
from collections.abc import Iterable, Mapping

from everest.protocols import BEST, LATEST
from everest.training.manifest import CHECKPOINT_KEY, removal_order
from orchestration.gc.rules import Part
from orchestration.job import RESULT, RUN_POINTER
from orchestration.log import Piece
from orchestration.s3 import Entry

_STALL_KEY = re.compile(r"stalls/[\w.-]+")
_OWN_KEY = re.compile(rf"starts/\d+\.json|meeting\.json|told\.json|{re.escape(RESULT)}|{re.escape(RUN_POINTER)}")


def part_of(key: str) -> Part | None:
    """Of a key below the run's folder; None: it is none of ours."""
    if CHECKPOINT_KEY.fullmatch(key) or key in {BEST, LATEST}:
        return "checkpoints"
    if Piece.parse(key) or _STALL_KEY.fullmatch(key):
        return "logs"
    return "runs" if _OWN_KEY.fullmatch(key) else None


def by_folder(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Of what is below the prefix: by folder, with keys below it."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        name, _, key = entry.key.partition("/")
        if key:
            found.setdefault(name, []).append(entry._replace(key=key))
    return found


def is_run(files: Iterable[Entry]) -> bool:
    """Whether a folder with these has one."""
    return any(part_of(file.key) for file in files)


def sizes(files: Iterable[Entry]) -> dict[Part, int | None]:
    found: dict[Part, int | None] = {}
    for file in files:
        if part := part_of(file.key):
            found[part] = (found.get(part) or 0) + file.bytes
    return found


def leaving(keys: Iterable[str], part: Part) -> list[str]:
    """Those of a part, in an order that may be broken off anywhere.

    An unfinished run without checkpoints may be begun anew under its name, and is another one in MLflow then.
    """
    there = list(keys)
    ours = [key for key in there if part_of(key) == part]
    if part == "checkpoints":
        pointer = [RUN_POINTER] if RUN_POINTER in there and RESULT not in there else []
        return [*pointer, *removal_order(ours)]
    return sorted(ours, key=lambda key: (key == RESULT, key == RUN_POINTER, key))


def artifacts_bytes(entries: Iterable[Entry], address: str) -> Mapping[str, int]:
    """Of runs' artifacts that are below the prefix with this address: by where they are."""
    found: dict[str, int] = {}
    for entry in entries:
        before, between, _ = entry.key.partition("/artifacts/")
        if between:
            where = f"{address}{before}/artifacts"
            found[where] = found.get(where, 0) + entry.bytes
    return found
