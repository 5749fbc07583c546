"""Published sets from their own annotation files. What the lists must say is written here by hand."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import everest
from everest.cli import command
from everest.data.files import VideoFile
from everest.data.index import read_files
from everest.data.prepare.prepare import Preparation
from everest.data.prepare.written import write_list
from everest.errors import EverestError, UsageError
from tests.data import numbered, sets

Rows = list[tuple[str, str | None]]


def labelled(file: Path) -> Rows:
    """Name of the file, with the window, and name of the class."""
    index = read_files(file)
    assert all(video.path.is_file() for video in index.videos)
    return [
        (Path(video.name).name, None if video.label is None else index.classes[video.label]) for video in index.videos
    ]


def prepared(name: str, root: Path, out: Path, split: int | None = None) -> dict[str, Rows]:
    Preparation(name, root, out, split).write()
    files = [out / f"{part}.csv" for part in ("test", "train", "val")]
    return {file.stem: labelled(file) for file in files if file.exists()}


UCF101: dict[str, Rows] = {
    "train": [
        ("v_ApplyEyeMakeup_g02_c01.avi", "ApplyEyeMakeup"),
        ("v_ApplyEyeMakeup_g03_c01.avi", "ApplyEyeMakeup"),
        ("v_HandStandPushups_g02_c01.avi", "HandstandPushups"),
        ("v_HandstandPushups_g03_c01.avi", "HandstandPushups"),
        ("v_YoYo_g02_c01.avi", "YoYo"),
    ],
    "val": [
        ("v_ApplyEyeMakeup_g01_c01.avi", "ApplyEyeMakeup"),
        ("v_HandStandPushups_g01_c01.avi", "HandstandPushups"),
        ("v_YoYo_g01_c01.avi", "YoYo"),
    ],
}
HMDB51: dict[str, Rows] = {
    "train": [("#20_Brush_hair_(x)!_u_nm_np1_ba_goo_0.avi", "brush_hair"), ("-wave_1;2 3.avi", "wave")],
    "val": [("B;rush@hair,_u_cm_np2_le_med_1.avi", "brush_hair"), ("!Wave!_#@_(1).avi", "wave")],
}
K400: dict[str, Rows] = {
    "train": [
        ("-0AbCdEfGhI_000010_000020.mp4", "abseiling"),
        ("__aBcDeFgHi_000000_000010.mp4", "petting animal (not cat)"),
        ("zZzZzZzZzZz_000118_000128.mp4", "eating, drinking"),
        ("-0aBcDeFgHi_000010_000020.mp4", "abseiling"),
    ],
    "val": [("_-_-_-_-_-__001000_001010.mp4", "eating, drinking")],
}
SSV2: dict[str, Rows] = {
    "train": [
        ("78687.webm", "Putting something on something"),
        ("42.webm", 'Pretending to put something "here", but not'),
    ],
    "val": [("74225.webm", "Approaching something with your camera")],
    "test": [("1420.webm", "Putting something on something"), ("3.webm", "Tilting something; then, something")],
}
OSCC: dict[str, Rows] = {
    "train": [
        ("0a1b2c3d-1111-2222-3333-444455556666.mp4 [0-8 s]", "state change"),
        ("0a1b2c3d-1111-2222-3333-444455556666.mp4 [8-16 s]", "no state change"),
    ],
    "val": [
        ("0a1b2c3d-1111-2222-3333-444455556666.mp4 [12.6-20.6 s]", "no state change"),
        ("0a1b2c3d-1111-2222-3333-444455556666.mp4 [16-24 s]", "state change"),
    ],
    "test": [("0a1b2c3d-1111-2222-3333-444455556666.mp4 [4-12 s]", None)],
}
KINDS: dict[str, tuple[str, Callable[[Path], None], dict[str, Rows]]] = {
    "ucf101": ("ucf101", sets.ucf101, UCF101),
    "hmdb51": ("hmdb51", sets.hmdb51, HMDB51),
    "k400": ("k400", sets.k400, K400),
    "k400-older-in-one-folder": ("k400", partial(sets.k400, titles=sets.K400_TITLES[1], folders=False), K400),
    "ssv2": ("ssv2", sets.ssv2, SSV2),
    "ssv2-in-labels": ("ssv2", partial(sets.ssv2, named="labels/{}.json".format), SSV2),
    "ssv2-without-answers": (
        "ssv2",
        partial(sets.ssv2, answers=False),
        SSV2 | {"test": [("1420.webm", None), ("3.webm", None)]},
    ),
    "oscc": ("oscc", sets.oscc, OSCC),
    "oscc-bare-list": ("oscc", partial(sets.oscc, bare=True), OSCC),
}
CLASSES = {
    "ucf101": ("ApplyEyeMakeup", "HandstandPushups", "YoYo"),
    "hmdb51": ("brush_hair", "wave"),
    "k400": ("abseiling", "eating, drinking", "petting animal (not cat)"),
    "ssv2": (
        "Approaching something with your camera",
        "Putting something on something",
        'Pretending to put something "here", but not',
        "Tilting something; then, something",
    ),
    "oscc": ("no state change", "state change"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sets_own_files_become_lists_with_the_right_labels(tmp_path: Path, kind: str) -> None:
    name, write, expected = KINDS[kind]
    write(tmp_path / "set")
    assert prepared(name, tmp_path / "set", tmp_path / "lists") == dict(sorted(expected.items()))
    assert read_files(tmp_path / "lists/train.csv").classes == CLASSES[name]
    again = tmp_path / "set"  # with the lists beside the videos, where nothing of the set is overwritten
    assert prepared(name, again, again) == dict(sorted(expected.items()))
    assert str(tmp_path) not in (again / "train.csv").read_text()


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("ucf101", ["4 of 6 videos, 1 missing, 1 broken, 0 odd", "v_YoYo_g03_c01", "v_ApplyEyeMakeup_g03_c01.avi: "]),
        ("hmdb51", ["1 other videos", "2 of 3 videos, 1 missing", "missing: missing_wave"]),
        ("k400", ["4 of 5 videos, 1 missing", "missing: MissingIsIt_000010", "missing: MissingToo0_000003"]),
        ("ssv2", ["2 of 3 videos, 1 missing", "missing: 43", "test.csv: 2 of 2 videos, 0 missing"]),
        ("oscc", ["2 of 4 videos, 1 missing, 1 without label left out", "missing: ffffffff-", "test.csv: 1 of 1"]),
    ],
)  # fmt: skip
def test_the_command_says_what_is_there_and_its_lists_pass_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, printed: list[str]
) -> None:
    KINDS[name][1](tmp_path / "set")
    out, check = tmp_path / "lists", ["--check"] if name == "ucf101" else []
    assert command(["data", "prepare", name, str(tmp_path / "set"), str(out), *check]) == 0
    said = capsys.readouterr().out
    assert [part for part in printed if part not in said] == []
    report = json.loads((out / "report.json").read_text())
    for file in out.glob("*.csv"):
        assert command(["data", "check", str(file), "--workers", "1"]) == 0
        checked = capsys.readouterr().out.splitlines()[-1]
        assert checked.startswith(f"{len(labelled(file))} videos, ")
        assert checked.endswith(" 0 unreadable, 0 odd but readable")
        found = report["lists"][file.stem]
        assert found["written"] == len(labelled(file))
        assert (
            found["listed"] == sum(map(len, (labelled(file), found["missing"], found["broken"]))) + found["unlabelled"]
        )


def test_each_split_is_the_official_one(tmp_path: Path) -> None:
    sets.ucf101(tmp_path / "ucf101")
    sets.hmdb51(tmp_path / "hmdb51")
    for split in (1, 2, 3):
        lists = prepared("ucf101", tmp_path / "ucf101", tmp_path / f"ucf{split}", split)
        assert {f"g0{split}" in name for name, _ in lists["val"]} == {True}
        assert {f"g0{split}" in name for name, _ in lists["train"]} == {False}
    file = tmp_path / "hmdb51/testTrainMulti_7030_splits/wave_test_split2.txt"
    file.write_text("-wave_1;2 3.avi 2 \n!Wave!_#@_(1).avi 0 \nmissing_wave.avi 0 \n")
    lists = prepared("hmdb51", tmp_path / "hmdb51", tmp_path / "hmdb2", 2)
    assert lists["val"] == [HMDB51["val"][0], ("-wave_1;2 3.avi", "wave")]


def test_windows_of_ego4d_show_the_frames_of_their_seconds(tmp_path: Path) -> None:
    sets.oscc(tmp_path)
    Preparation("oscc", tmp_path, tmp_path).write()
    seen = []
    for video in read_files(tmp_path / "val.csv").videos:
        frames = everest.read_frames(video.path, [0, 39], start=video.start, end=video.end)
        seen.append(numbered.read(frames))
        with pytest.raises(EverestError, match="frames 0 to 39"):
            everest.read_frames(video.path, [40], start=video.start, end=video.end)
    assert seen == [[63, 102], [80, 119]]  # of 5 a second, from 12.6 s and from 16 s


def test_broken_videos_are_left_out_only_when_they_are_looked_for_and_the_docs_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sets.ucf101(Path("ucf101-download"))
    prepare = ["data", "prepare", "ucf101", "ucf101-download", "data/ucf101"]
    assert command(prepare) == 0
    assert labelled(Path("data/ucf101/train.csv")) == UCF101["train"]
    capsys.readouterr()
    assert command([*prepare, "--check"]) == 0
    typed = f"$ everest {' '.join(prepare)} --check\n{capsys.readouterr().out}"
    assert f"```\n{typed}```" in (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    broken = "v_ApplyEyeMakeup_g03_c01.avi"
    assert labelled(Path("data/ucf101/train.csv")) == [row for row in UCF101["train"] if row[0] != broken]


@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/\0\n\r", codec="utf-8"), min_size=1, max_size=12),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    window=st.none() | st.tuples(st.floats(0, 1e6), st.floats(1e-3, 1e3)),
    labelled=st.booleans(),
)
def test_whatever_a_file_is_called_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], window: tuple[float, float] | None, labelled: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    videos = [
        VideoFile(folder / f"{name}.avi", at % 2 if labelled else None, *((window[0], sum(window)) if window else ()))
        for at, name in enumerate(names)
    ]
    write_list(folder / "list.csv", videos)
    assert list(read_files(folder / "list.csv").videos) == videos


@pytest.mark.parametrize(
    "stem",
    [
        "-dash",
        "_x",
        "#a;b!c(d)@e",
        'say "hi"',
        "a,b",
        "path",
        "a.mp4 3",
        " blank ",
        "\u00e9",
        "caf\udce9",
        "tab\there",
        "\ufeffx",
    ],
)
def test_awkward_names_are_read_back(tmp_path: Path, stem: str) -> None:
    there = [VideoFile(tmp_path / f"{stem}.mp4", 1), VideoFile(Path(f"/else where/{stem}.mp4"), 0)]
    write_list(tmp_path / "list.csv", there)
    assert list(read_files(tmp_path / "list.csv").videos) == there
    write_list(tmp_path / "list.csv", [video._replace(start=1.5, end=9.25) for video in there])
    assert [video[1:] for video in read_files(tmp_path / "list.csv").videos] == [(1, 1.5, 9.25), (0, 1.5, 9.25)]


def change(file: str, old: str, new: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        before = (root / file).read_text()
        assert old in before
        (root / file).write_text(before.replace(old, new))

    return write


def remove(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).unlink()


UCF, HMDB, SS = "ucfTrainTestlist", "testTrainMulti_7030_splits", "something-something-v2"
EGO = "v1/annotations/fho_oscc-pnr"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (
            "ucf101",
            remove(f"{UCF}/testlist01.txt"),
            "no testlist01.txt in .*set; looked for ucfTrainTestlist/testlist01",
        ),
        (
            "ucf101",
            remove(f"{UCF}/classInd.txt"),
            "no classInd.txt in .*set; looked for ucfTrainTestlist/classInd.txt, c",
        ),
        ("ucf101", change(f"{UCF}/classInd.txt", "2 H", "3 H"), "'3 HandstandPushups' is not class 2 and its name"),
        (
            "ucf101",
            change(f"{UCF}/trainlist01.txt", "avi 3", "avi 2"),
            "YoYo_g02_c01.avi has number 2, and its class 3",
        ),
        (
            "ucf101",
            change(f"{UCF}/testlist01.txt", "YoYo/", "YoYa/"),
            "YoYa/v_YoYo_g01_c01.avi is of no class of class",
        ),
        (
            "hmdb51",
            remove(f"{HMDB}/wave_test_split1.txt"),
            "no wave_test_split1.txt in .*testTrainMulti_7030_splits; l",
        ),
        (
            "hmdb51",
            change(f"{HMDB}/wave_test_split1.txt", " 2 ", " 3 "),
            "'!Wave!_#@_.1..avi 3' is not a video and 0, 1",
        ),
        ("k400", remove("annotations/val.csv"), "no val.csv in .*set; looked for annotations/val.csv, .*/validate.csv"),
        ("k400", change("annotations/val.csv", "youtube_id,", "id,"), "val.csv has no column 'youtube_id'; its first "),
        (
            "k400",
            change("annotations/val.csv", "abseiling,M", "abseil,M"),
            "MissingToo0_.* has label 'abseil', which the",
        ),
        ("k400", change("annotations/train.csv", "118,", "118.5,"), "train.csv line 4: '118.5' is no whole number of"),
        ("ssv2", remove(f"{SS}-labels.json"), "no something-something-v2-labels.json in .*set; looked for some"),
        ("ssv2", change(f"{SS}-train.json", '"id": "42"', '"uid": "42"'), "train.json entry 2: id: Field required"),
        (
            "ssv2",
            change(f"{SS}-train.json", "Putting [", "Puting ["),
            "video 78687 has 'Puting something on something', wh",
        ),
        ("ssv2", change(f"{SS}-labels.json", '"3"', '"4"'), "its 4 classes are not numbered 0 to 3"),
        ("ssv2", change("test-answers.csv", "1420;", "1421;"), "test-answers.csv: video 1420 has ''"),
        ("ssv2", change(f"{SS}-train.json", "}]", "}"), "train.json is no JSON: "),
        ("oscc", remove(f"{EGO}_val.json"), "no fho_oscc-pnr_val.json in .*set; looked for fho_oscc-pnr_val.json, ann"),
        ("oscc", change(f"{EGO}_train.json", '"video_uid"', '"uid"'), "entry 1: video_uid: Field required"),
        (
            "oscc",
            change(f"{EGO}_train.json", "null", '"yes"'),
            "entry 3: state_change: Input should be a valid boolean",
        ),
        (
            "oscc",
            change(f"{EGO}_val.json", '"parent_end_sec": 24.0', '"parent_end_sec": 16'),
            "entry 2: .*is no window",
        ),
        ("oscc", change(f"{EGO}_train.json", '"clips"', '"videos"'), "train.json has no list of videos"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_named(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], message: str
) -> None:
    KINDS[name][1](tmp_path / "set")
    spoil(tmp_path / "set")
    with pytest.raises(UsageError, match=message):
        Preparation(name, tmp_path / "set", tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_a_video_that_is_there_twice_or_in_another_class_is_not_guessed(tmp_path: Path) -> None:
    sets.hmdb51(tmp_path)
    folder = tmp_path / "hmdb51_org"
    (folder / "wave/-wave_1;2 3.avi").rename(folder / "brush_hair/-wave_1;2 3.avi")
    assert Preparation("hmdb51", tmp_path, tmp_path).report.lists["train"].missing == ["-wave_1;2 3", "missing_wave"]
    (tmp_path / "same").symlink_to("hmdb51_org")
    assert Preparation("hmdb51", tmp_path, tmp_path).report.lists["train"].missing == ["-wave_1;2 3", "missing_wave"]
    sets.videos(tmp_path / "small/wave", "!Wave!_#@_(1).mp4")
    with pytest.raises(UsageError, match=r"has !Wave!_#@_\(1\) more than once, .*; choose with --videos FOLDER"):
        Preparation("hmdb51", tmp_path, tmp_path)


def test_videos_may_be_elsewhere_than_the_annotation_files(tmp_path: Path) -> None:
    sets.oscc(tmp_path / "ego4d")
    (tmp_path / "ego4d/video_540ss").mkdir()
    [video] = (tmp_path / "ego4d/full_scale").iterdir()
    small = tmp_path / "ego4d/video_540ss" / video.name
    small.write_bytes(video.read_bytes())
    with pytest.raises(UsageError, match="more than once"):
        Preparation("oscc", tmp_path / "ego4d", tmp_path)
    Preparation("oscc", tmp_path / "ego4d", tmp_path, videos=small.parent).write()
    assert {found.path for found in read_files(tmp_path / "train.csv").videos} == {small}
    with pytest.raises(UsageError, match="nowhere is no folder; give the one with the videos of oscc"):
        Preparation("oscc", tmp_path / "ego4d", tmp_path, videos=tmp_path / "nowhere")


def test_the_sets_own_files_are_not_written_over(tmp_path: Path) -> None:
    sets.k400(tmp_path)
    own = (tmp_path / "annotations/train.csv").rename(tmp_path / "train.csv").read_text()
    with pytest.raises(UsageError, match=r"train.csv is there and was not written by this command"):
        Preparation("k400", tmp_path, tmp_path)
    assert (tmp_path / "train.csv").read_text() == own
    assert prepared("k400", tmp_path, tmp_path / "lists") == K400


def test_a_list_without_videos_is_not_there_and_a_set_without_any_is_an_error(tmp_path: Path) -> None:
    sets.k400(tmp_path / "set")
    out = tmp_path / "lists"
    assert set(prepared("k400", tmp_path / "set", out)) == {"train", "val"}
    (tmp_path / "set/videos/eating, drinking/_-_-_-_-_-__001000_001010.mp4").unlink()
    assert set(prepared("k400", tmp_path / "set", out)) == {"train"}
    assert (
        "val.csv: 0 of 2 videos, 2 missing; no list is written"
        in Preparation("k400", tmp_path / "set", out).write().lines()
    )
    (tmp_path / "set/videos").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"no video of k400 below .*set; missing: -0AbCdEfGhI_000010_000020, "):
        Preparation("k400", tmp_path / "set", out).write()


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("ucf101", 4, "ucf101 has splits 1 to 3"),
        ("hmdb51", 0, "hmdb51 has splits 1 to 3"),
        ("oscc", 1, "has no splits"),
    ],
)
def test_a_split_that_is_not_there_is_refused(tmp_path: Path, name: str, split: int, message: str) -> None:
    with pytest.raises(UsageError, match=f"--split {split}: .*{message}"):
        Preparation(name, tmp_path, tmp_path, split)


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere is no folder; give the one with the annotation files of ssv2"):
        Preparation("ssv2", tmp_path / "nowhere", tmp_path)


def test_a_name_that_no_list_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\\nb.mp4' has a line break in its name"):
        write_list(tmp_path / "list.csv", [VideoFile(tmp_path / "a\nb.mp4", 0)])
    assert not any(tmp_path.iterdir())
