"""The working tree taken along: what is in it, and that git makes the same of its commit and patch."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

import orchestration.code
from everest.errors import UsageError
from orchestration.code import working_tree


def git(where: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=where, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with a file of every kind."""
    root = tmp_path / "tree"
    (root / "pack age").mkdir(parents=True)
    git(root, "init", "-q")
    git(root, "config", "user.email", "one@example.org")
    git(root, "config", "user.name", "One")
    for name in ("kept.py", "changed.py", "gone.py", "pack age/ä.py"):
        (root / name).write_text(f"# {name}\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "picture.bin").write_bytes(bytes(range(256)))
    (root / "link.py").symlink_to("kept.py")
    (root / ".gitignore").write_text("/ignored/\n")
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", "begun")
    (root / "changed.py").write_text("# another\n")
    (root / "picture.bin").write_bytes(bytes(reversed(range(256))))
    (root / "gone.py").unlink()
    (root / "new").mkdir()
    (root / "new/untracked.py").write_text("# new\n")
    (root / "ignored").mkdir()
    (root / "ignored/large.bin").write_bytes(b"0" * 1000)
    (root / ".env").write_text("AWS_SECRET_ACCESS_KEY=planted\n")
    return root


def contents(folder: Path) -> dict[str, tuple[bytes | str, bool]]:
    """Of every file: its bytes, or where it links to, and whether it can be executed."""
    return {
        str(path.relative_to(folder)): (os.readlink(path), False)
        if path.is_symlink()
        else (path.read_bytes(), os.access(path, os.X_OK))
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and not {".git", ".everest"} & {*path.relative_to(folder).parts}
    }


def unpacked(tree: Path, folder: Path) -> Path:
    code = working_tree(tree)
    assert code
    with tarfile.open(fileobj=io.BytesIO(code.archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_it_is_the_tree_without_what_git_ignores_and_without_dot_env(tree: Path, tmp_path: Path) -> None:
    found = contents(unpacked(tree, tmp_path / "out"))
    truth = contents(tree)
    del truth[".env"], truth["ignored/large.bin"]
    assert found == truth


def test_git_makes_the_same_tree_of_its_commit_and_patch(tree: Path, tmp_path: Path) -> None:
    out = unpacked(tree, tmp_path / "out")
    git(tmp_path, "clone", "-q", str(tree), "again")
    git(tmp_path / "again", "checkout", "-q", (out / ".everest/commit").read_text())
    git(tmp_path / "again", "apply", str(out / ".everest/changes.patch"))
    assert contents(tmp_path / "again") == contents(out)


def test_a_change_of_the_same_size_in_the_moment_of_the_commit_is_not_lost(tree: Path, tmp_path: Path) -> None:
    git(tree, "config", "core.trustctime", "false")  # which cannot be set
    os.utime(tree / "kept.py", (0, 10))
    git(tree, "add", "kept.py")
    (tree / "kept.py").write_text("# tpek.py\n")
    for file in (tree / "kept.py", tree / ".git/index"):
        os.utime(file, (0, 10))
    patch = unpacked(tree, tmp_path / "out") / ".everest/changes.patch"
    assert "+# tpek.py" in patch.read_text()


def test_the_same_tree_has_the_same_name_whenever_it_is_packed_and_another_has_another(tree: Path) -> None:
    first, before = working_tree(tree), git(tree, "status", "--porcelain", "-uall")
    assert git(tree, "status", "--porcelain", "-uall") == before
    os.utime(tree / "kept.py", (0, 0))
    (tree / "ignored/more.bin").write_bytes(b"1")
    assert working_tree(tree) == first
    (tree / "new/untracked.py").write_text("# newer\n")
    again = working_tree(tree)
    assert first
    assert again
    assert first.digest != again.digest


def test_nothing_staged_or_stored_in_the_checkout_changes(tree: Path) -> None:
    git(tree, "add", "new/untracked.py")
    before = {path: path.read_bytes() for path in (tree / ".git").rglob("*") if path.is_file()}
    working_tree(tree)
    assert {path: path.read_bytes() for path in (tree / ".git").rglob("*") if path.is_file()} == before


def test_a_tree_that_is_too_large_is_refused_with_its_largest_files(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestration.code, "MOST", 300)
    with pytest.raises(UsageError, match=r"more than 0: picture\.bin \(0\.0 MiB\), .*; let git ignore .*--no-code"):
        working_tree(tree)


def test_a_link_out_of_the_tree_is_refused(tree: Path) -> None:
    (tree / "out.py").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"out\.py links out of the working tree"):
        working_tree(tree)


def test_what_is_no_checkout_is_not_taken_along(tmp_path: Path) -> None:
    assert working_tree(tmp_path) is None
