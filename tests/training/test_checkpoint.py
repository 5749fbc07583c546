"""Checkpoints: whole or not there, verified, the newest good one found."""

import json
import os
import pickle
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from everest.errors import EverestError, Superseded
from everest.protocols import BEST, LATEST
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
        checkpoints.save(step, {"w": torch.full((3,), float(step))}, {"optimizer": {"lr": step}}, {"classes.txt": "a"})
        checkpoints.finish()


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
    checkpoints.finish()
    assert sorted({int(key[5:13]) for key in store.list() if "/" in key}) == [2, 5, 6, 7]
    said = json.loads(store.read(BEST) or "")
    assert (said["checkpoint"][:13], said["value"]) == ("step-00000002", 0.6)


def test_a_resumed_writer_goes_on_with_the_best_of_the_one_before(
    checkpoints: Checkpoints, store: FolderStore, tmp_path: Path
) -> None:
    save(checkpoints, 1)
    checkpoints.mark_best("val/top1", 0.9)
    checkpoints.finish()
    resumed = Checkpoints(FolderStore(store.folder), tmp_path, keep=1)
    resumed.take_over(resumed.newest())
    for step in (2, 3):
        save(resumed, step)
        resumed.mark_best("val/top1", 0.5)
    resumed.finish()
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
    whole, damaged = sorted(path.name for path in store.folder.glob("step-00000003-*/training.pt"))
    assert whole == damaged  # which is kept, for a person to look at


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
    checkpoints.finish()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    assert re.search(r"step-00000002-\w+ .* passed over: w has values that are not finite", caplog.text)


class Runs:
    """Unpickled, it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def seal(folder: Path, file: str, content: bytes) -> None:
    """Puts it there as if it had always been: its sum is right."""
    (folder / file).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def said(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return make


def pipe(folder: Path) -> None:
    (folder / "training.pt").unlink()
    os.mkfifo(folder / "training.pt")


STRANGE: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda folder: (folder / "manifest.json").write_text("<html>"),
    "bytes": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\0"),
    "a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "empty": lambda folder: (folder / "manifest.json").write_text(""),
    "null": lambda folder: (folder / "manifest.json").write_text("null"),
    "deep": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "huge": lambda folder: (folder / "manifest.json").write_text(" " * 2**21 + "{}"),
    "no files": said(lambda manifest: manifest.pop("files")),
    "files as a list": said(lambda manifest: manifest.update(files=list(manifest["files"]))),
    "no weights": said(lambda manifest: manifest["files"].pop("model.safetensors")),
    "no training": said(lambda manifest: manifest["files"].pop("training.pt")),
    "a sum that is none": said(lambda manifest: manifest["files"].update({"training.pt": 7})),
    "a path outside": said(
        lambda manifest: manifest["files"].update({"../../latest.json": {"bytes": 1, "sha256": ""}})
    ),
    "no step": said(lambda manifest: manifest.pop("step")),
    "a step of words": said(lambda manifest: manifest.update(step="two")),
    "another step": said(lambda manifest: manifest.update(step=1)),
    "a file too many": said(lambda manifest: manifest["files"].update({"more": {"bytes": 1, "sha256": "0"}})),
    "no safetensors": lambda folder: seal(folder, "model.safetensors", b"weights"),
    "no weights in it": lambda folder: seal(folder, "model.safetensors", b""),
    "no torch file": lambda folder: seal(folder, "training.pt", b"training"),
    "an empty one": lambda folder: seal(folder, "training.pt", b""),
    "a list of training": lambda folder: seal(folder, "training.pt", pickle.dumps([1])),
    "text that is none": lambda folder: seal(folder, "classes.txt", b"\xff"),
    "a pipe": pipe,
}


@pytest.mark.parametrize("strange", STRANGE)
def test_whatever_a_checkpoint_holds_it_is_passed_over_and_kept(
    checkpoints: Checkpoints, store: FolderStore, caplog: pytest.LogCaptureFixture, strange: str
) -> None:
    save(checkpoints, 1, 2)
    STRANGE[strange](folder_of(store, 2))
    resumed = Checkpoints(FolderStore(store.folder), checkpoints.scratch, keep=1)
    found = resumed.newest()
    assert found is not None
    assert found.step == 1
    assert re.search(r"step-00000002-\w+ is damaged and passed over: .", caplog.text)
    resumed.take_over(found)
    save(resumed, 3, 4)
    assert [path.name[:13] for path in sorted(store.folder.glob("step-*"))] == ["step-00000002", "step-00000004"]
    later = Checkpoints(FolderStore(store.folder), checkpoints.scratch, keep=1)
    later.take_over(later.newest())
    save(later, 5)
    assert [path.name[:13] for path in sorted(store.folder.glob("step-*"))] == ["step-00000002", "step-00000005"]


@pytest.mark.parametrize("file", ["training.pt", "model.safetensors"])
def test_a_pickle_in_a_checkpoint_is_never_run(
    checkpoints: Checkpoints, store: FolderStore, tmp_path: Path, file: str
) -> None:
    save(checkpoints, 1, 2)
    trace = tmp_path / "it was run"
    seal(folder_of(store, 2), file, pickle.dumps({"optimizer": Runs(trace)}))
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, trace.exists()) == (1, False)


def test_where_none_can_be_used_a_run_stops_and_nothing_is_lost(checkpoints: Checkpoints, store: FolderStore) -> None:
    save(checkpoints, 1, 2)
    for step in (1, 2):
        (folder_of(store, step) / "training.pt").write_bytes(b"")
    before = sorted(store.list())
    names = [folder_of(store, step).name for step in (2, 1)]
    with pytest.raises(
        EverestError, match=f"none of the 2 checkpoints in .*{names[0]}: .*{names[1]}: .*--name"
    ) as error:
        checkpoints.newest()
    assert "\n" not in str(error.value)
    assert sorted(store.list()) == before


def test_a_checkpoint_that_vanished_is_said_and_not_begun_anew(
    checkpoints: Checkpoints, store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoints, 1, 2)
    (folder_of(store, 2) / "manifest.json").unlink()
    assert checkpoints.newest() is not None
    assert re.search(r"checkpoint step-00000002-\w+ was the newest, and is not there any more", caplog.text)
    (folder_of(store, 1) / "manifest.json").unlink()
    with pytest.raises(EverestError, match=r"step-00000002-\w+: it is not there any more"):
        checkpoints.newest()


def test_what_the_run_cannot_use_is_passed_over(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)

    def use(checkpoint: Any) -> None:
        if checkpoint.step == 2:
            raise KeyError("meters")

    found = checkpoints.newest(use)
    assert found is not None
    assert found.step == 1


class OnceWrong(FolderStore):
    """Each file is spoiled the first times that it is read."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(folder)
        self.left: dict[str, int] = {}
        self.times = times

    def get(self, key: str, file: Path) -> None:
        super().get(key, file)
        self.left[key] = self.left.get(key, self.times)
        if self.left[key]:
            self.left[key] -= 1
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)


def test_what_was_wrong_on_the_way_is_fetched_again(checkpoints: Checkpoints, store: FolderStore) -> None:
    save(checkpoints, 1, 2)
    once = Checkpoints(OnceWrong(store.folder, 1), checkpoints.scratch, keep=3).newest()
    assert once is not None
    assert (once.step, once.weights["w"].tolist()) == (2, [2, 2, 2])


@pytest.mark.parametrize("text", ["", "[]", "<html>", '{"checkpoint": 7}', '{"metric": "val/top1"}'])
def test_pointers_that_cannot_be_read_cost_no_checkpoint(
    checkpoints: Checkpoints, store: FolderStore, text: str
) -> None:
    """The best could be any of them."""
    save(checkpoints, 1, 2, 3)
    for pointer in (LATEST, BEST):
        (store.folder / pointer).write_text(text)
    resumed = Checkpoints(FolderStore(store.folder), checkpoints.scratch, keep=1)
    resumed.take_over(resumed.newest())
    save(resumed, 4, 5)
    resumed.mark_best("val/top1", 0.5)
    resumed.finish()
    steps = [int(path.name[5:13]) for path in sorted(store.folder.glob("step-*"))]
    assert steps == [1, 2, 5]
    assert json.loads(store.read(BEST) or "")["value"] == 0.5


class Locked(FolderStore):
    """Lets nothing go."""

    asked = 0

    def delete(self, key: str) -> None:
        self.asked += 1
        raise PermissionError("Access Denied")


def test_saving_goes_on_where_nothing_may_be_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Locked(tmp_path / "store")
    checkpoints = Checkpoints(store, tmp_path, keep=1)
    checkpoints.take_over(None)
    save(checkpoints, 1, 2, 3, 4)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 4
    assert len(list(store.folder.glob("step-*/training.pt"))) == 4
    assert caplog.text.count("old checkpoints cannot be removed and stay (Access Denied)") == 1
    assert store.asked == 3  # each once


def test_what_could_not_be_removed_once_is_removed_later(tmp_path: Path) -> None:
    class Away(FolderStore):
        away = True

        def delete(self, key: str) -> None:
            if self.away:
                raise ConnectionError("503")
            super().delete(key)

    store = Away(tmp_path / "store")
    checkpoints = Checkpoints(store, tmp_path, keep=1)
    save(checkpoints, 1, 2, 3)
    store.away = False
    save(checkpoints, 4)
    assert [path.name[:13] for path in store.folder.glob("step-*")] == ["step-00000004"]


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
    checkpoints.finish()
    found = checkpoints.newest()
    assert found is not None
    assert found.weights["w"].tolist() == [0, 0, 0]


def test_the_manifest_holds_sizes_and_sums(checkpoints: Checkpoints, store: FolderStore) -> None:
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
