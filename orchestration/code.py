"""The working tree that jobs are submitted from: packed by content, kept in S3 once, unpacked where it is run.

An archive holds what git tracks and what it would (untracked, not ignored), and in ``.everest`` the commit and the
changes since. Its name is the SHA-256 of its bytes, which depend on nothing else.
"""

import gzip
import hashlib
import io
import logging
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from everest.errors import EverestError, UsageError
from orchestration.provenance import CHANGES
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

REQUIREMENTS = "requirements.txt"
MOST = 32 * 2**20  # bytes of all files
_PATIENCE_S = 15  # of a person who submits
_COMMIT = ".everest/commit"
ARCHIVES = "_code"  # where runs are in S3, and no name of one
_FRESH = timedelta(days=1)  # what was sent longer ago is sent again: gc removes what nobody has asked for in weeks
_HERE = Path(__file__).parent


class Code(NamedTuple):
    digest: str
    archive: bytes


def working_tree(where: Path = _HERE) -> Code | None:
    """Of the checkout that this file is of; None where it is of none. Raises UsageError for a tree too large."""
    try:
        root = Path(_git(where, "rev-parse", "--show-toplevel").decode().strip())
        head = _git(root, "rev-parse", "HEAD").decode().strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    files = _files(root)
    sizes = {name: (root / name).lstat().st_size for name in files}
    if sum(sizes.values()) > MOST:
        largest = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MiB)" for name in sorted(files, key=sizes.get)[:-4:-1])  # type: ignore[arg-type]
        raise UsageError(
            f"the working tree {root} has {sum(sizes.values()) / 2**20:.0f} MiB, more than {MOST // 2**20}: "
            f"{largest}; let git ignore what jobs need not have, or submit with --no-code"
        )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in ((_COMMIT, head.encode()), (CHANGES, _changes(root))):
            if content:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        for name in files:
            tar.add(root / name, name, recursive=False, filter=_impersonal)
    return Code(hashlib.sha256(packed.getvalue()).hexdigest(), packed.getvalue())


def taken_along(launcher: str, settings: PlatformSettings) -> str:
    """The working tree's digest, when it is in S3; none for jobs of this machine, which have the tree itself, and where
    there is no checkout. Raises EverestError."""
    code = working_tree() if launcher != "local" else None
    if code is None:
        return ""
    send(code, settings)
    return code.digest


def send(code: Code, settings: PlatformSettings) -> None:
    """To S3, unless it was a moment ago. Raises EverestError."""
    here, key = settings.model_copy(update={"patience_s": _PATIENCE_S}), _key(code.digest)
    try:
        with closing(S3Store(here, ARCHIVES)) as store:
            if any(datetime.now(UTC) - there.modified < _FRESH for there in store.entries(key)):
                return
            store.patiently(lambda: store.write(key, code.archive))
    except EverestError as error:
        raise type(error)(
            f"the working tree cannot be sent along (with --no-code the image's own runs): {error}"
        ) from None
    log.info(
        "the working tree is sent along, %.1f MiB (with --no-code the image's own runs)", len(code.archive) / 2**20
    )


def fetch(digest: str, folder: Path, settings: PlatformSettings, let_in: Sequence[str] = ()) -> None:
    """Makes ``folder`` of the archive, whole or not at all. ``let_in``: rights that S3 has granted before.

    Raises EverestError.
    """
    with closing(S3Store(settings, ARCHIVES, let_in)) as store:
        try:
            archive = store.content(_key(digest))
        except FileNotFoundError:
            raise EverestError(f"{store.address} does not have the code {digest[:12]} any more") from None
        if hashlib.sha256(archive).hexdigest() != digest:
            raise EverestError(f"{store.address}{_key(digest)} is not what it was when it was sent; submit again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".code-") as scratch,
        tarfile.open(fileobj=io.BytesIO(archive)) as tar,
    ):
        tar.extractall(Path(scratch) / "tree", filter="data")
        (Path(scratch) / "tree").rename(folder)


def archived(key: str) -> str:
    """The digest of the code that is under it; empty: it is none of ours."""
    found = re.fullmatch(r"([0-9a-f]{64})\.tar\.gz", key)
    return found[1] if found else ""


def _key(digest: str) -> str:
    return f"{digest}.tar.gz"


def _files(root: Path) -> list[str]:
    """Tracked and untracked ones, without ``.env``. Raises UsageError for a link out of the tree."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    files = sorted(name for name in {*listed} if name and Path(name).name != ".env")
    files = [name for name in files if (root / name).is_symlink() or (root / name).is_file()]
    for name in files:
        if (root / name).is_symlink() and not (root / name).resolve().is_relative_to(root.resolve()):
            raise UsageError(
                f"{root / name} links out of the working tree; let git ignore it, or submit with --no-code"
            )
    return files


def _changes(root: Path) -> bytes:
    """Since the commit, as ``git apply`` takes it; nothing in the checkout or its index is touched."""
    with tempfile.TemporaryDirectory() as scratch:
        objects = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects").decode().strip()
        index = Path(_git(root, "rev-parse", "--path-format=absolute", "--git-path", "index").decode().strip())
        if index.exists():
            shutil.copy2(
                index, Path(scratch) / "index"
            )  # with its time, by which git knows what may have changed since
        apart = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        _git(root, "add", "--all", "--", ".", ":(exclude,glob)**/.env", **apart)
        return _git(root, "diff", "--cached", "--binary", "--no-ext-diff", "HEAD", **apart)


def _impersonal(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who, when and where: a name, a content, and whether it can be executed."""
    kept = tarfile.TarInfo(entry.name)
    kept.type, kept.size, kept.linkname = entry.type, entry.size, entry.linkname
    kept.mode = 0o755 if entry.mode & 0o100 else 0o644
    return kept


def _git(where: Path, *arguments: str, **environment: str) -> bytes:
    return subprocess.run(
        ["git", *arguments], cwd=where, env={**os.environ, **environment}, capture_output=True, check=True
    ).stdout
