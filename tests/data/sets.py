"""Small copies of the published sets, in the formats that they are distributed in, some videos missing or broken.

Each function writes one below a folder. ``frames`` of a video that is there tell its number: see ``numbered``.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.data import numbered

_CODECS = {
    ".avi": ("mpeg4", {}),
    ".mp4": ("libx264", {"preset": "ultrafast"}),
    ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}


@cache
def _short(suffix: str) -> Path:
    return numbered.write(Path(mkdtemp()) / f"short{suffix}", _CODECS[suffix][0], range(12), _CODECS[suffix][1])


def videos(folder: Path, *names: str) -> None:
    """Of 12 frames each, half a second."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_short(Path(name).suffix), folder / name)


def text(file: Path, *lines: str, end: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + end for line in lines).encode())


def ucf101(root: Path) -> None:
    """Three splits; files of one class have other capitals than the class, one video is missing and one broken."""
    lists = root / "ucfTrainTestlist"
    text(lists / "classInd.txt", "1 ApplyEyeMakeup", "2 HandstandPushups", "3 YoYo", end="\r\n")
    makeup = [f"ApplyEyeMakeup/v_ApplyEyeMakeup_g0{group}_c01.avi" for group in (1, 2, 3)]
    listed = [f"HandstandPushups/v_HandStandPushups_g0{group}_c01.avi" for group in (1, 2, 3)]
    yoyo = [f"YoYo/v_YoYo_g0{group}_c01.avi" for group in (1, 2, 3)]
    for split in (1, 2, 3):
        train = [(names[at], label) for label, names in enumerate((makeup, listed, yoyo), 1) for at in range(3)]
        train = [(name, label) for name, label in train if f"g0{split}" not in name]
        text(lists / f"trainlist0{split}.txt", *(f"{name} {label}" for name, label in train), end="\r\n")
        text(lists / f"testlist0{split}.txt", *(names[split - 1] for names in (makeup, listed, yoyo)), end="\r\n")
    there = [name.replace("HandstandPushups/", "HandStandPushups/") for name in [*makeup, *listed[:2], *yoyo[:2]]]
    videos(root / "UCF-101", *there, listed[2].replace("HandStand", "Handstand"))
    text(root / "UCF-101" / makeup[2], "no video")


HMDB_AWKWARD = {
    "brush_hair": ["#20_Brush_hair_(x)!_u_nm_np1_ba_goo_0", "B;rush@hair,_u_cm_np2_le_med_1", "unused_u_0"],
    "wave": ["-wave_1;2 3", "!Wave!_#@_(1)", "missing_wave"],
}


def hmdb51(root: Path) -> None:
    """A split in which the first video of a class trains, the second tests, the third is unused or missing."""
    for name, (first, second, third) in HMDB_AWKWARD.items():
        folder = root / "testTrainMulti_7030_splits"
        uses = (1, 2, 0) if name == "brush_hair" else (1, 2, 1)
        for split in (1, 2, 3):
            lines = (f"{video}.avi {use} " for video, use in zip((first, second, third), uses, strict=True))
            text(folder / f"{name}_test_split{split}.txt", *lines)
        videos(root / "hmdb51_org" / name, *(f"{video}.avi" for video in (first, second, third) if video[0] != "m"))


K400_TITLES = ("label,youtube_id,time_start,time_end,split", "label,youtube_id,time_start,time_end,split,is_cc")


def k400(root: Path, titles: str = K400_TITLES[0], folders: bool = True) -> None:
    """Videos in a folder per class, or all in one; one of each part is missing."""
    more = ",0" if titles.endswith("is_cc") else ""
    rows = {
        "train": [
            "abseiling,-0AbCdEfGhI,10,20,train",
            '"petting animal (not cat)",__aBcDeFgHi,0,10,train',
            '"eating, drinking",zZzZzZzZzZz,118,128,train',
            "abseiling,-0aBcDeFgHi,10,20,train",
            "abseiling,MissingIsIt,10,20,train",
        ],
        "val": ['"eating, drinking",_-_-_-_-_-_,1000,1010,val', "abseiling,MissingToo0,3,13,val"],
    }
    for part, lines in rows.items():
        text(root / "annotations" / f"{part}.csv", titles, *(line + more for line in lines))
    there = {
        "abseiling": ["-0AbCdEfGhI_000010_000020", "-0aBcDeFgHi_000010_000020"],
        "petting animal (not cat)": ["__aBcDeFgHi_000000_000010"],
        "eating, drinking": ["zZzZzZzZzZz_000118_000128", "_-_-_-_-_-__001000_001010"],
    }
    for name, stems in there.items():
        videos(root / "videos" / (name if folders else ""), *(f"{stem}.mp4" for stem in stems))


def ssv2(
    root: Path, named: Callable[[str], str] = "something-something-v2-{}.json".format, answers: bool = True
) -> None:
    """Four classes; one video for training is missing."""
    labels = {
        "Putting something on something": "1",
        "Approaching something with your camera": "0",
        'Pretending to put something "here", but not': "2",
        "Tilting something; then, something": "3",
    }
    templates = ["Putting [something] on [something]", 'Pretending to put [something] "here", but not']
    parts = {
        "labels": labels,
        "train": [
            {"id": str(number), "label": "a cup", "template": template, "placeholders": ["a cup"]}
            for number, template in [(78687, templates[0]), (42, templates[1]), (43, templates[0])]
        ],
        "validation": [
            {"id": "74225", "label": "", "template": "Approaching [something] with your camera", "placeholders": ["x"]}
        ],
        "test": [{"id": "1420"}, {"id": "3"}],
    }
    for name, content in parts.items():
        text(root / named(name), json.dumps(content))
    if answers:
        text(
            (root / named("test")).with_name("test-answers.csv"),
            "3;Tilting something; then, something",
            "1420;Putting something on something",
        )
    videos(root / "20bn-something-something-v2", *(f"{number}.webm" for number in (78687, 42, 74225, 1420, 3)))


def oscc(root: Path, bare: bool = False) -> None:
    """Windows of a video of 24 s and 5 frames a second; another video is missing."""

    def clip(number: int, video: str, start: float, **more: object) -> dict[str, object]:
        return {
            "unique_id": f"clip-{number}", "video_uid": video, "parent_start_sec": start, "parent_end_sec": start + 8,
            "parent_start_frame": round(30 * start), "parent_end_frame": round(30 * (start + 8)), **more,
        }  # fmt: skip

    there = "0a1b2c3d-1111-2222-3333-444455556666"
    parts = {
        "train": [
            clip(1, there, 0.0, clip_uid="x", parent_pnr_frame=120, state_change=True),
            clip(2, there, 8.0, state_change=False),
            clip(3, there, 3.5, clip_uid="x", pnr_frame=9, state_change=None),
            clip(4, "ffffffff-0000-0000-0000-000000000000", 16.0, state_change=True),
        ],
        "val": [clip(5, there, 12.6, state_change=False), clip(6, there, 16.0, clip_uid="y", state_change=True)],
        "test_unannotated": [clip(7, there, 4.0)],
    }
    for name, clips in parts.items():
        content = clips if bare else {"version": "1", "date": "220222", "clips": clips}
        text(root / "v1" / "annotations" / f"fho_oscc-pnr_{name}.json", json.dumps(content))
    (root / "full_scale").mkdir(parents=True)
    codec, options = _CODECS[".mp4"]
    numbered.write(root / "full_scale" / f"{there}.mp4", codec, range(120), {**options, "g": "20"}, rate=5)
