"""Lists and folders of videos."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from everest.data.index import VideoFile, read_index
from everest.data.labels import remarks
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
    assert video == VideoFile(tmp_path / path, label)


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


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        ("a.mp4;3", "a.mp4", 3),
        ('"a, b.mp4",3', "a, b.mp4", 3),
        ('"say ""hi"".mp4";3', 'say "hi".mp4', 3),
        ("a,b.mp4,3", "a,b.mp4", 3),
        ("a, b.mp4", "a, b.mp4", None),
        ("#1;x 2.avi 0", "#1;x 2.avi", 0),
        ("-dash.mp4 1", "-dash.mp4", 1),
        ("a 1.mp4", "a 1.mp4", None),
        ("frames/a_b 3", "frames/a_b", 3),
        ("frames/a_b,3", "frames/a_b", 3),
    ],
)
def test_every_separator_and_every_name(tmp_path: Path, line: str, path: str, label: int | None) -> None:
    (tmp_path / "list.csv").write_text(f"{line}\r\n")
    assert list(read_index(tmp_path / "list.csv").videos) == [VideoFile(tmp_path / path, label)]


@pytest.mark.parametrize("title", ["path,label", "video;class", "Filename\tTarget", "path label", "path"])
def test_a_line_of_titles_is_no_video(tmp_path: Path, title: str) -> None:
    (tmp_path / "list.csv").write_text(f"{title}\na.mp4 1\n")
    assert len(read_index(tmp_path / "list.csv").videos) == 1
    (tmp_path / "list.csv").write_text("label,path\n1,a.mp4\n")
    with pytest.raises(UsageError, match="line 1: the columns are 'label,path'; a list has the path first"):
        read_index(tmp_path / "list.csv")


def test_a_list_is_utf_8_with_a_mark_or_without_and_utf_16_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("é.mp4,0\n", encoding="utf-8-sig")
    assert read_index(file).videos[0].path.name == "é.mp4"
    file.write_text("é.mp4,0\n", encoding="utf-16")
    with pytest.raises(UsageError, match=r"list.csv is not text in UTF-8 but.* UTF-16; save it as UTF-8"):
        read_index(file)
    file.write_bytes(b"caf\xe9.mp4,0\n")  # a name in Latin-1 is those bytes
    assert os.fsencode(read_index(file).videos[0].path.name) == b"caf\xe9.mp4"


def test_labels_may_be_names_of_classes(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text('a.mp4,run\nb.mp4,"long jump"\nc.mp4 run\n')
    index = read_index(file)
    assert (index.classes, [video.label for video in index.videos]) == (("long jump", "run"), [1, 0, 1])
    (tmp_path / "classes.txt").write_text("\ufeffrun\r\nlong jump\r\nswim\r\n")
    index = read_index(file)
    assert (index.classes, [video.label for video in index.videos]) == (("run", "long jump", "swim"), [0, 1, 0])


@pytest.mark.parametrize(
    ("content", "classes", "message"),
    [
        ("a.mp4 run\nb.mp4 rnu\n", "run\n", "line 2: label 'rnu' is neither a number nor a class of .*classes.txt"),
        ("a.mp4 0\nb.mp4 O\n", "", "line 2: label 'O' is no number, as other lines have it"),
        ("a.mp4,0.5\n", "", "line 1: label '0.5' is no whole number"),
        ("a.mp4,\n", "", "line 1: label '' is empty"),
        ("a.mp4 120 3\n", "", "line 1: label '120 3' is no whole number"),
        ("a.mp4 99999999999\n", "", "line 1: 99999999999 is too large for the number of a class"),
        ("a.mp4 1\nb.mp4 2\n", "run\nswim\n", "has label 2; labels count from 0, and these may count from 1"),
        ("a.mp4 1\nb/../a.mp4 0\n", "", r"line 2: 'b/../a.mp4' has label 0, and 1 in line 1"),
        ("a.mp4 1\n", "run\n\nswim\n", "classes.txt line 2 is blank"),
        ("a.mp4 1\n", "run\nrun\n", "classes.txt line 2: 'run' is also line 1"),
    ],
)
def test_a_label_that_is_none_is_named(tmp_path: Path, content: str, classes: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    if classes:
        (tmp_path / "classes.txt").write_text(classes)
    with pytest.raises(UsageError, match=message):
        read_index(tmp_path / "list.csv")


def videos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_validation_has_trainings_classes_by_name(tmp_path: Path) -> None:
    train = read_index(videos(tmp_path / "train", "a/1.mp4", "b/1.mp4", "c/1.mp4"))
    val = read_index(videos(tmp_path / "val", "c/2.mp4", "a/2.mp4")).with_classes(train.classes)
    assert [(video.path.parent.name, video.label) for video in val.videos] == [("a", 0), ("c", 2)]
    assert val.classes == ("a", "b", "c")
    with pytest.raises(UsageError, match="val has 'd', which training does not have; its classes are 'a', 'b', 'c'"):
        read_index(videos(tmp_path / "val", "d/2.mp4")).with_classes(train.classes)
    (tmp_path / "list.csv").write_text("x.mp4 2\n")  # numbers are training's
    assert read_index(tmp_path / "list.csv").with_classes(train.classes).videos[0].label == 2
    (tmp_path / "list.csv").write_text("x.mp4 3\n")
    with pytest.raises(UsageError, match="has label 3, but there are 3 classes"):
        read_index(tmp_path / "list.csv").with_classes(train.classes)


def test_what_systems_leave_in_folders_is_not_there(tmp_path: Path) -> None:
    hidden = ["run/._a.mp4", "run/.b.mp4", ".cache/c.mp4", "__MACOSX/run/a.mp4", "run/.hidden/d.mp4", ".e.mp4"]
    index = read_index(videos(tmp_path, "run/a.mp4", "swim/deep/b.mp4", *hidden))
    assert [video.path.name for video in index.videos] == ["a.mp4", "b.mp4"]
    assert index.classes == ("run", "swim")


def test_nothing_of_a_folder_is_dropped_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = videos(tmp_path / "a", "run/a.mp4", "empty/readme.txt")
    (folder / "run/gone.mp4").symlink_to("nowhere.mp4")
    assert [video.path.name for video in read_index(folder).videos] == ["a.mp4", "gone.mp4"]
    assert "no videos in 'empty'" in caplog.text
    (folder / "swim").symlink_to(videos(tmp_path / "elsewhere", "deep/s.mp4"))
    assert read_index(folder).classes == ("run", "swim")
    (tmp_path / "elsewhere/loop").symlink_to(folder / "swim")
    with pytest.raises(UsageError, match=r"loop links to a folder that it is in itself"):
        read_index(folder)
    (tmp_path / "elsewhere/loop").unlink()
    (folder / "dance").symlink_to("nowhere")
    with pytest.raises(UsageError, match="dance links to nowhere, which does not exist"):
        read_index(folder)
    (folder / "dance").unlink()
    with pytest.raises(UsageError, match=r"has videos \(b.mp4 …\) beside folders of videos \('run', 'swim'\)"):
        read_index(videos(folder, "b.mp4"))

    def forbidden(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("everest.data.folders.os.scandir", forbidden)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        read_index(folder)


def test_a_digest_tells_paths_labels_and_names_apart(tmp_path: Path) -> None:
    digests = set()
    for content in ("a/x.mp4 0", "b/x.mp4 0", "b/x.mp4 1", "b/x.mp4 run", b"caf\xe9.mp4 0"):
        (tmp_path / "list.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        digests.add(read_index(tmp_path / "list.csv").digest())
    assert len(digests) == 5


def test_remarks_name_classes_without_videos_and_a_file_with_two_labels(tmp_path: Path) -> None:
    videos(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.csv").write_text("a.mp4 1\nb.mp4 3\n./a.mp4 1\n")
    assert list(remarks(read_index(tmp_path / "list.csv"))) == [
        f"1 listed more than once, the first {tmp_path / 'a.mp4'}",
        "2 classes without videos: 0, 2 (labels count from 0; these may count from 1)",
    ]
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    (tmp_path / "list.csv").write_text("a.mp4 0\nlink.mp4 1\n")
    with pytest.raises(UsageError, match=r"one video has two labels, 0 and 1: .*a\.mp4"):
        list(remarks(read_index(tmp_path / "list.csv")))


def test_whatever_moves_is_a_video_and_pictures_sound_and_text_beside_it_are_not(tmp_path: Path) -> None:
    videos = ["a.GIF", "b.m2ts", "c.vob", "d.asf", "e.rm", "f.mxf", "g.hevc", "h.3g2", "i.y4m"]
    for name in [*videos, "j.jpg", "k.png", "l.mp3", "m.ogg", "n.txt", "o.srt", "p.json", "q.webp", "r.wav", "s.dat"]:
        (tmp_path / name).touch()
    assert [video.path.name for video in read_index(tmp_path).videos] == videos


@pytest.mark.parametrize(
    ("line", "label", "start", "end"),
    [
        ("long.mp4,3,8,16", 3, 8, 16),
        ("long.mp4;3; 8.5 ;16.25", 3, 8.5, 16.25),
        ("long.mp4\t3\t0\t1e2", 3, 0, 100),
        ('"a, long.mp4",3,8,16', 3, 8, 16),
        ("a, long.mp4,3,8,16", 3, 8, 16),
        ("long.mp4,3,8,", 3, 8, None),
        ("long.mp4,3,,16", 3, 0, 16),
        ("long.mp4,3,,", 3, 0, None),
        ("long.mp4,,8,16", None, 8, 16),
        ("long.mp4\t\t8\t16", None, 8, 16),
        ("a long.mp4 3 8 16", 3, 8, 16),
        ("long.mp4  3\t8 16.5", 3, 8, 16.5),
        ("videos/long,3,8,16", 3, 8, 16),
        ("videos/long;;8;16", None, 8, 16),
    ],
)
def test_a_list_takes_windows_of_videos(
    tmp_path: Path, line: str, label: int | None, start: float, end: float | None
) -> None:
    (tmp_path / "list.csv").write_text(f"{line}\n")
    (video,) = read_index(tmp_path / "list.csv").videos
    assert video[1:] == (label, start, end)
    assert video.path.name.endswith(("long.mp4", "long"))


@pytest.mark.parametrize(
    "label", ["take 1 2", "catch 22 10 20", "jump 3", "7 8 x", '"jump, 3, 8"', "up, down, left", "2, 3 x"]
)
def test_a_class_that_ends_in_numbers_is_no_window(tmp_path: Path, label: str) -> None:
    file = tmp_path / "list.csv"
    for separator in (",", " ", ";"):
        file.write_text(f"a.mp4{separator}{label}\n")
        index = read_index(file)
        assert index.classes == (label.strip('"'),)
        assert list(index.videos) == [VideoFile(tmp_path / "a.mp4", 0)]
    file.write_text('path,label\na.mp4,"jump, 3, 8"\nb.mp4,jump,3,8\n')  # the titles say that there are no times
    assert read_index(file).classes == ("jump, 3, 8", "jump,3,8")
    file.write_text("path,label\nvideos/a,3,8,2\n")
    assert list(read_index(file).videos) == [VideoFile(tmp_path / "videos/a,3,8", 2)]


@pytest.mark.parametrize(
    ("titles", "line"),
    [
        ("path,label,start,end", "long.mp4,run,8,16"),
        ("path,start,end,label", "long.mp4,8,16,run"),
        ("Video;End (s);Class;Start (s)", "long.mp4;16;run;8"),
        ("file_name\tstart_time\tend_time\tcategory", "long.mp4\t8\t16\trun"),
        ("filename,class_name,time_start,time_end", '"long.mp4","run",8,16'),
        ("path,label,start_sec,end_sec", "videos/a,long.mp4,run,8,16"),
        ("path label start end", "long.mp4 run 8 16"),
        ('"path","label","start","end"', "a long.mp4,run,8,16"),
    ],
)
def test_titles_say_where_the_times_are(tmp_path: Path, titles: str, line: str) -> None:
    (tmp_path / "list.csv").write_text(f"{titles}\n{line}\n")
    index = read_index(tmp_path / "list.csv")
    assert [video[1:] for video in index.videos] == [(0, 8, 16)]
    assert index.classes == ("run",)


def test_titles_may_leave_out_label_start_or_end(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    for titles, line, label, start, end in (
        ("path,start,end", "a.mp4,8,16", None, 8, 16),
        ("path,start", "a.mp4,8", None, 8, None),
        ("path,label,end", "a.mp4,1,16", 1, 0, 16),
        ("path,label,start,end", "a.mp4,,8,16", None, 8, 16),
        ("path\tlabel\tstart\tend", "a.mp4\t1\t8\t", 1, 8, None),
        ("path,start,end", "videos/a,8,16", None, 8, 16),
    ):
        file.write_text(f"{titles}\n{line}\n")
        assert [video[1:] for video in read_index(file).videos] == [(label, start, end)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.mp4,3,8,8", "line 1: start 8 is not before end 8"),
        ("a.mp4,3,16.5,8", "line 1: start 16.5 is not before end 8"),
        ("a.mp4 3 0 0", "line 1: start 0 is not before end 0"),
        ("a.mp4,3,-1,8", "line 1: start -1 is negative"),
        ("a.mp4 3 -1 8", "line 1: start -1 is negative"),
        ("a.mp4,3,0,x", "line 1: end 'x' is no number of seconds"),
        ("a.mp4,run,x,8", "line 1: start 'x' is no number of seconds"),
        ("a.mp4,3,x,y", "line 1: start 'x' is no number of seconds"),
        ("a.mp4,3,00:01,00:08", "line 1: start '00:01' is no number of seconds"),
        ("a.mp4 3 00:01 00:08", "line 1: start '00:01' is no number of seconds"),
        ("a.mp4;3;0,5;8", "line 1: start '0,5' is no number of seconds"),
        ("a.mp4,3,nan,8", "line 1: start 'nan' is no number of seconds"),
        ("a.mp4,3,0,inf", "line 1: end 'inf' is no number of seconds"),
        ("a.mp4,3,0,1_0", "line 1: end '1_0' is no number of seconds"),
        ("a.mp4,3,8s,16s", "line 1: start '8s' is no number of seconds"),
        ("a.mp4,0.5,0,8", "line 1: label '0.5' is no whole number"),
        ("a.mp4,-1,0,8", "line 1: label -1 is negative"),
        ("a.mp4,3,8", "line 1: label '3,8' is no whole number"),
        ("path,label,start,end\na.mp4,3,8", "line 2 has 3 columns, and the titles are path, label, start, end"),
        ("path,start,end\na.mp4,3,8,16", "line 2 has 4 columns, and the titles are path, start, end"),
        ("path,start,end\na.mp4", "line 2 has 1 columns, and the titles are path, start, end"),
        ("path,label,start_frame,end_frame", "line 1: column 'start_frame' is unknown"),
        ("path,label,split", "line 1: column 'split' is unknown"),
        ("label,path,start,end", "line 1: the columns are 'label,path,start,end'; a list has the path first"),
        ("path,start,start,end", "line 1: the columns are 'path,start,start,end'"),
        ("a.mp4,,0,8\nb.mp4,1,0,8", "line 2: 'b.mp4' has a label, unlike line 1"),
        ("a.mp4,0,0,8\n./a.mp4,1,0.0,8", r"line 2: './a.mp4' \[0-8 s\] has label 1, and 0 in line 1"),
    ],
)
def test_a_wrong_window_names_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(f"{content}\n")
    with pytest.raises(UsageError, match=f"list.csv {message}"):
        read_index(tmp_path / "list.csv")


def test_windows_of_a_video_are_videos_of_their_own(tmp_path: Path) -> None:
    file = videos(tmp_path, "a.mp4") / "list.csv"
    file.write_text("a.mp4,0,0,8\na.mp4,1,8,16.25\na.mp4,1,8,\na.mp4,0,,\n./a.mp4,1,8.0,16.25\n")
    index = read_index(file)
    path = tmp_path / "a.mp4"
    assert list(index.videos) == [
        VideoFile(path, 0, 0, 8),
        VideoFile(path, 1, 8, 16.25),
        VideoFile(path, 1, 8),
        VideoFile(path, 0),
        VideoFile(path, 1, 8, 16.25),
    ]
    names = [f"{path} [0-8 s]", f"{path} [8-16.25 s]", f"{path} [from 8 s]", str(path), f"{path} [8-16.25 s]"]
    assert [video.name for video in index.videos] == names
    assert list(remarks(index)) == [f"1 listed more than once, the first {path} [8-16.25 s]"]
    assert [video[1:] for video in index.with_classes(("0", "1", "2")).videos] == [video[1:] for video in index.videos]


def test_a_digest_covers_windows_and_is_as_before_without(tmp_path: Path) -> None:
    digests = {}
    for content in (
        "a.mp4,0",
        "a.mp4,0,,",
        "a.mp4,0,0,",
        "a.mp4,0,0,8",
        "a.mp4,0,1,8",
        "a.mp4,0,1,8.0001",
        "a.mp4,0,1,",
    ):
        (tmp_path / "list.csv").write_text(content)
        digests[content] = read_index(tmp_path / "list.csv").digest()
    assert digests["a.mp4,0"] == digests["a.mp4,0,,"] == digests["a.mp4,0,0,"]
    assert digests["a.mp4,0"] == sha256(b"a.mp4\x000\n0").hexdigest()[:16]
    assert len(set(digests.values())) == 5


def test_a_list_of_a_program_that_quotes_names_between_blanks_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text('"my video.mp4" 3\n"b, c.mp4"  0\n')
    assert [(video.path.name, video.label) for video in read_index(tmp_path / "list.txt").videos] == [
        ("my video.mp4", 3),
        ("b, c.mp4", 0),
    ]
