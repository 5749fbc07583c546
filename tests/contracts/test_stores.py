"""What every checkpoint store promises, kept by the folder and by a real S3 server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everest.errors import Superseded
from everest.protocols import CheckpointStore
from everest.training.local import FolderStore
from orchestration.s3 import S3Store
from tests.services import s3_settings

Open = Callable[[], CheckpointStore]


@pytest.fixture(params=["folder", "s3"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens the same store again and again, as processes that come after one another do."""
    if request.param == "folder":
        yield lambda: FolderStore(tmp_path / "store")
        return
    settings, stores = s3_settings(monkeypatch), []

    def open_s3() -> S3Store:
        stores.append(S3Store(settings, "run"))
        return stores[-1]

    yield open_s3
    for store in stores:
        store.close()


def written(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "file"
    file.write_bytes(content)
    return file


def content(store: CheckpointStore, key: str, tmp_path: Path) -> bytes:
    store.get(key, tmp_path / "got" / "file")
    return (tmp_path / "got" / "file").read_bytes()


def test_a_file_is_taken_over_and_found_again_by_another_process(open_store: Open, tmp_path: Path) -> None:
    file = written(tmp_path, b"weights" * 1000)
    open_store().put(file, "step-1/model")
    assert not file.exists()
    again = open_store()
    assert list(again.list()) == ["step-1/model"]
    assert content(again, "step-1/model", tmp_path) == b"weights" * 1000


def test_putting_again_replaces(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    for text in (b"one", b"two"):
        store.put(written(tmp_path, text), "a")
    assert content(open_store(), "a", tmp_path) == b"two"


def test_what_is_not_there_is_a_missing_file(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    with pytest.raises(FileNotFoundError):
        store.get("nothing", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    store.delete("nothing")
    assert store.read("nothing") is None


def test_a_deleted_file_is_gone_for_everybody(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    for key in ("a/1", "a/2", "b/1"):
        store.put(written(tmp_path, b"x"), key)
    store.delete("a/1")
    assert sorted(store.list()) == ["a/2", "b/1"]
    assert sorted(open_store().list()) == ["a/2", "b/1"]


def test_a_pointer_moves_as_often_as_its_only_writer_wants(open_store: Open) -> None:
    store = open_store()
    assert store.read("latest") is None
    for text in ("1", "2", "3"):
        store.point("latest", text)
    later = open_store()
    assert later.read("latest") == "3"
    later.point("latest", "4")
    assert open_store().read("latest") == "4"


def test_a_pointer_that_another_moved_is_not_moved_back(open_store: Open, tmp_path: Path) -> None:
    first = open_store()
    first.read("latest")
    first.point("latest", "first")
    second = open_store()
    second.read("latest")
    second.point("latest", "second")
    with pytest.raises(Superseded, match="another process continues the run in "):
        first.point("latest", "first again")
    assert second.read("latest") == "second"


def test_of_two_that_find_no_pointer_one_wins(open_store: Open) -> None:
    first, second = open_store(), open_store()
    assert first.read("latest") is second.read("latest") is None
    first.point("latest", "first")
    with pytest.raises(Superseded):
        second.point("latest", "second")
    assert first.read("latest") == "first"
