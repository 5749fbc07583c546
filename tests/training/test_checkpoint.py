"""Checkpoints: whole or not there, verified, the newest good one found."""

import json
import re
from pathlib import Path

import pytest
import torch

from everest.errors import Superseded
from everest.training.checkpoint import BEST, LATEST, Checkpoints
from everest.training.local import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def checkpoints(store: FolderStore, tmp_path: Path) -> Checkpoints:
    return Checkpoints(store, tmp_path, keep=3)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"w": torch.full((3,), float(step))}, {"optimizer": {"lr": step}}, {"classes.txt": "a"})


def folder_of(store: FolderStore, step: int) -> Path:
    (found,) = store.folder.glob(f"step-{step:08d}-*")
    return found


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
    assert {key[:13] for key in store.list() if "/" in key} == {"step-00000003", "step-00000004", "step-00000005"}
    assert not list(store.folder.glob("step-00000001-*"))


def test_the_best_is_kept_beside_the_last_few(checkpoints: Checkpoints, store: FolderStore) -> None:
    for step, top1 in enumerate([0.1, 0.6, 0.2, 0.6, 0.3, 0.4, 0.5], start=1):
        save(checkpoints, step)
        checkpoints.mark_best("val/top1", top1)
    assert sorted({int(key[5:13]) for key in store.list() if "/" in key}) == [2, 5, 6, 7]
    said = json.loads(store.read(BEST) or "")
    assert (said["checkpoint"][:13], said["value"]) == ("step-00000002", 0.6)


def test_a_resumed_writer_goes_on_with_the_best_of_the_one_before(
    checkpoints: Checkpoints, store: FolderStore, tmp_path: Path
) -> None:
    save(checkpoints, 1)
    checkpoints.mark_best("val/top1", 0.9)
    resumed = Checkpoints(FolderStore(store.folder), tmp_path, keep=1)
    resumed.take_over(resumed.newest())
    for step in (2, 3):
        save(resumed, step)
        resumed.mark_best("val/top1", 0.5)
    assert sorted({int(key[5:13]) for key in store.list() if "/" in key}) == [1, 3]


def test_a_process_whose_run_was_taken_over_removes_and_points_to_nothing(
    checkpoints: Checkpoints, store: FolderStore, tmp_path: Path
) -> None:
    checkpoints.take_over(None)
    save(checkpoints, 1, 2)
    second = Checkpoints(FolderStore(store.folder), tmp_path, keep=1)
    second.take_over(second.newest())
    save(second, 2, 3)
    before = set(store.list())
    with pytest.raises(Superseded, match="another process continues the run"):
        save(checkpoints, 9)
    assert before <= set(store.list())
    assert json.loads(store.read(LATEST) or "")["checkpoint"].startswith("step-00000003")


def test_a_damaged_one_does_not_count_among_those_kept(checkpoints: Checkpoints, store: FolderStore) -> None:
    save(checkpoints, 1, 2, 3)
    (folder_of(store, 3) / "training.pt").write_bytes(b"")
    resumed = Checkpoints(store, checkpoints.scratch, keep=2)
    resumed.take_over(resumed.newest())
    save(resumed, 3)
    assert {key[:13] for key in store.list() if "/" in key} == {"step-00000002", "step-00000003"}


@pytest.mark.parametrize("file", ["model.safetensors", "training.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_passed_over_and_that_is_said(
    checkpoints: Checkpoints, store: FolderStore, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    save(checkpoints, 1, 2)
    path = folder_of(store, 2) / file
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
    said = re.search(r"step-00000002-\w+ is damaged and passed over", caplog.text) is not None
    assert said is not ((file, damage) == ("manifest.json", "remove"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_passed_over_for_earlier_ones(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    save(checkpoints, 1)
    good = {"a": torch.zeros(3), "count": torch.tensor(7)}
    checkpoints.save(2, good | {"w": torch.tensor([0.0, value, 1.0])}, {}, {})
    checkpoints.save(3, good | {"w": torch.tensor([value], dtype=torch.bfloat16)}, {}, {})
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    assert re.search(r"step-00000002-\w+ .* passed over: w has values that are not finite", caplog.text)


def test_one_without_its_manifest_does_not_exist(checkpoints: Checkpoints, store: FolderStore) -> None:
    """What a kill in the middle of saving leaves: files, but the manifest comes last."""
    save(checkpoints, 1, 2)
    (folder_of(store, 2) / "manifest.json").unlink()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    save(checkpoints, 7)
    checkpoints.save(7, {"w": torch.zeros(3)}, {}, {})
    found = checkpoints.newest()
    assert found is not None
    assert found.weights["w"].tolist() == [0, 0, 0]


def test_the_manifest_holds_sizes_and_sums(checkpoints: Checkpoints, store: FolderStore) -> None:
    from hashlib import sha256

    save(checkpoints, 1)
    folder = folder_of(store, 1)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name, sealed in files.items():
        content = (folder / name).read_bytes()
        assert sealed == {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    assert set(files) == {"model.safetensors", "training.pt", "classes.txt"}


def test_a_full_disk_here_is_no_damage_there(checkpoints: Checkpoints, store: FolderStore) -> None:
    class NoRoom(FolderStore):
        def get(self, key: str, file: Path) -> None:
            raise OSError("No space left on device")

    save(checkpoints, 1, 2)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(NoRoom(store.folder), checkpoints.scratch, keep=1).newest()


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


@pytest.mark.parametrize("files", [4, 5, 6, 7])
def test_a_failed_save_is_loud_and_leaves_the_one_before(tmp_path: Path, files: int) -> None:
    checkpoints = Checkpoints(FullDisk(tmp_path / "store", files), tmp_path, keep=3)
    save(checkpoints, 1)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoints, 2)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    assert not list(tmp_path.glob(".checkpoint-*"))
