"""Lists and folders of videos."""

from pathlib import Path

import pytest

from everest.data.index import read_index
from everest.errors import UsageError


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4 3", "a.mp4", 3),
        ("a.mp4,3", "a.mp4", 3),
        ("a.mp4, 3", "a.mp4", 3),
        ("v_Archery/my video.avi 0", "v_Archery/my video.avi", 0),
        ("my video.avi,12", "my video.avi", 12),
        ("my video.avi", "my video.avi", None),
        ("a.mp4\t7", "a.mp4", 7),
    ],
)
def test_a_list_line_is_a_path_and_a_label(tmp_path: Path, line: str, path: str, label: int | None) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n\n")
    (video,) = read_index(tmp_path / "list.txt").videos
    assert video == (tmp_path / path, label)


def test_paths_start_from_the_root_given_and_absolute_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 0\n/elsewhere/b.mp4 1\n")
    first, second = read_index(tmp_path / "list.txt", root=Path("/videos")).videos
    assert first.path == Path("/videos/a.mp4")
    assert second.path == Path("/elsewhere/b.mp4")


def test_a_folder_per_class_is_labelled_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("run/a.mp4", "jump/deep/b.MKV", "jump/notes.txt", "empty/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = read_index(tmp_path)
    assert index.classes == ("jump", "run")
    assert [(video.path.name, video.label) for video in index.videos] == [("b.MKV", 0), ("a.mp4", 1)]


def test_a_folder_of_videos_has_no_labels(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.webm", "notes.txt"):
        (tmp_path / name).touch()
    index = read_index(tmp_path)
    assert [video.path.name for video in index.videos] == ["a.webm", "b.mp4"]
    assert index.classes == ()
    with pytest.raises(UsageError, match="has no labels"):
        index.require_labels()


def test_class_names_come_from_classes_txt(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a.mp4,1\nb.mp4,0\n")
    assert read_index(tmp_path / "list.csv").classes == ("0", "1")
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    assert read_index(tmp_path / "list.csv").classes == ("walk", "run")
    (tmp_path / "classes.txt").write_text("walk\n")
    with pytest.raises(UsageError, match=r"names 1 classes, but .* has label 1"):
        read_index(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no videos"),
        (b"a.mp4 0\nb.mp4\n", "line 2: 'b.mp4' has no label, unlike line 1"),
        (b"a.mp4 -1\n", "line 1: label -1 is negative"),
        (b"\xff\xfe\x00\x01", "is not text"),
    ],
)
def test_a_wrong_list_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UsageError, match=f"list.txt.*{message}"):
        read_index(tmp_path / "list.txt")


def test_a_missing_source_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; give a list file or a folder"):
        read_index(tmp_path / "nowhere")
