"""Code sent along, in a real S3 server: once, whole, as it was; and what a pod does with it."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from everest.errors import EverestError
from orchestration.code import Code, fetch, send, working_tree
from orchestration.job import CODE
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from tests.orchestration.test_code import contents, git
from tests.services import s3_settings, until

WORKER = """
import os, everest_sent
print("this is", everest_sent.SAYS, os.environ["EVEREST_CODE_FOLDER"], os.environ.get("EVEREST_IMAGE_COMMIT"))
"""


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    return s3_settings(monkeypatch)


@pytest.fixture
def code(tmp_path: Path) -> Code:
    """A project whose worker says which one it is."""
    root = tmp_path / "tree"
    (root / "orchestration/pod").mkdir(parents=True)
    git(root, "init", "-q")
    for package in ("orchestration", "orchestration/pod"):
        (root / package / "__init__.py").touch()
    (root / "orchestration/pod/worker.py").write_text(WORKER)
    (root / "everest_sent.py").write_text("SAYS = 'the code that was sent'\n")
    (root / "requirements.txt").write_text("torch==2.15\n")
    git(root, "add", "--all")
    git(root, "-c", "user.email=one@example.org", "-c", "user.name=One", "commit", "-q", "-m", "begun")
    found = working_tree(root)
    assert found
    return found


def stored(settings: PlatformSettings) -> list[str]:
    store = S3Store(settings, "_code")
    try:
        return list(store.list())
    finally:
        store.close()


def pod(
    code: Code, settings: PlatformSettings, tmp_path: Path, requirements: str
) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "image.txt").write_text(requirements)
    environment = {
        **os.environ, **settings.environment(), CODE: code.digest, "TMPDIR": str(tmp_path / "tmp"),
        "EVEREST_JOB": "run", "EVEREST_SUBMISSION": "first",
        "EVEREST_IMAGE_REQUIREMENTS": str(tmp_path / "image.txt"), "EVEREST_IMAGE_COMMIT": "old",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "orchestration.pod.code"], env=environment, cwd=tmp_path, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_it_is_sent_once_and_comes_back_as_it_was(settings: PlatformSettings, code: Code, tmp_path: Path) -> None:
    for _ in range(2):
        send(code, settings)
    assert stored(settings) == [f"{code.digest}.tar.gz"]
    fetch(code.digest, tmp_path / "back", settings)
    assert contents(tmp_path / "back") == contents(tmp_path / "tree")


def test_what_was_sent_long_ago_is_sent_again_so_that_it_counts_as_new(
    settings: PlatformSettings, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent() -> list[datetime]:
        return [entry.modified for entry in S3Store(settings, "_code").entries()]

    send(code, settings)
    (first,) = sent()
    until(lambda: datetime.now(UTC) - first > timedelta(seconds=1), "S3's clock, which counts seconds")
    send(code, settings)
    assert sent() == [first]
    monkeypatch.setattr("orchestration.code._FRESH", timedelta(0))
    send(code, settings)
    assert sent() > [first]


def test_what_is_not_as_it_was_sent_is_never_unpacked(settings: PlatformSettings, code: Code, tmp_path: Path) -> None:
    other = Code(code.digest, code.archive[:-1] + b"!")
    send(other, settings)
    with pytest.raises(EverestError, match="is not what it was when it was sent"):
        fetch(code.digest, tmp_path / "back", settings)
    with pytest.raises(EverestError, match="does not have the code 0000"):
        fetch("0" * 64, tmp_path / "back", settings)
    assert not list(tmp_path.glob("*back*"))
    assert not list(tmp_path.glob(".code-*"))


def test_a_pod_runs_it_in_place_of_the_images(settings: PlatformSettings, code: Code, tmp_path: Path) -> None:
    send(code, settings)
    for _ in range(2):  # a container that is started again
        done = pod(code, settings, tmp_path, "torch==2.15\n")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"this is the code that was sent {tmp_path}/tmp/everest-{code.digest[:16]} None\n"


def test_code_that_needs_another_image_is_refused_before_any_of_it_is_run(
    settings: PlatformSettings, code: Code, tmp_path: Path
) -> None:
    send(code, settings)
    done = pod(code, settings, tmp_path, "torch==2.14\n")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("everest: requirements.txt of the code that was sent along is not that of the image")
    assert "--no-code" in line
