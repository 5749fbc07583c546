"""Checkpoints: whole or not there, verified, the newest good one found."""

import json
from pathlib import Path

import pytest
import torch

from everest.training.checkpoint import Checkpoints
from everest.training.local import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def checkpoints(store: FolderStore, tmp_path: Path) -> Checkpoints:
    return Checkpoints(store, tmp_path, keep=3)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"w": torch.full((3,), float(step))}, {"optimizer": {"lr": step}})


def test_the_newest_is_found_with_all_it_held(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    save(checkpoints, 9, 10)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 10
    assert found.weights["w"].tolist() == [10, 10, 10]
    assert found.training == {"optimizer": {"lr": 10}}


def test_only_the_last_few_are_kept(checkpoints: Checkpoints, store: FolderStore) -> None:
    save(checkpoints, 1, 2, 3, 4, 5)
    assert {key.split("/")[0] for key in store.list()} == {"step-00000003", "step-00000004", "step-00000005"}
    assert not (store.folder / "step-00000001").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "training.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_passed_over_and_that_is_said(
    checkpoints: Checkpoints, store: FolderStore, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    save(checkpoints, 1, 2)
    path = store.folder / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    found = checkpoints.newest()
    assert found is not None
    if (file, damage) == ("manifest.json", "flip"):
        assert found.step in {1, 2}  # a digit of the step's own line may still be valid
        return
    assert found.step == 1
    said = "step-00000002 is damaged and passed over" in caplog.text
    assert said is not ((file, damage) == ("manifest.json", "remove"))


def test_one_without_its_manifest_does_not_exist(checkpoints: Checkpoints, store: FolderStore) -> None:
    """What a kill in the middle of saving leaves: files, but the manifest comes last."""
    save(checkpoints, 1, 2)
    (store.folder / "step-00000002" / "manifest.json").unlink()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    save(checkpoints, 7)
    checkpoints.save(7, {"w": torch.zeros(3)}, {})
    found = checkpoints.newest()
    assert found is not None
    assert found.weights["w"].tolist() == [0, 0, 0]


def test_the_manifest_holds_sizes_and_sums(checkpoints: Checkpoints, store: FolderStore) -> None:
    from hashlib import sha256

    save(checkpoints, 1)
    folder = store.folder / "step-00000001"
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name, sealed in files.items():
        content = (folder / name).read_bytes()
        assert sealed == {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    assert set(files) == {"model.safetensors", "training.pt"}


class FullDisk(FolderStore):
    """Fails at the n-th file."""

    def __init__(self, folder: Path, files: int) -> None:
        super().__init__(folder)
        self.left = files

    def put(self, file: Path, key: str) -> None:
        if not self.left:
            raise OSError("No space left on device")
        self.left -= 1
        super().put(file, key)


@pytest.mark.parametrize("files", [3, 4, 5])
def test_a_failed_save_is_loud_and_leaves_the_one_before(tmp_path: Path, files: int) -> None:
    checkpoints = Checkpoints(FullDisk(tmp_path / "store", files), tmp_path, keep=3)
    save(checkpoints, 1)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoints, 2)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    assert not list(tmp_path.glob(".checkpoint-*"))
