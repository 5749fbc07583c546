"""Ego4D's object state change classification (Grauman et al., 2022): windows of 8 s of videos ``<video_uid>.mp4``.

``state_change`` is true, false or null; null is neither class, and such a window is left out, unless for testing.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, StrictBool, TypeAdapter

from everest.data.prepare.annotations import (
    Annotations,
    Entry,
    Listed,
    first_file,
    optional_file,
    parse_rows,
    read_json,
)
from everest.errors import UsageError

CLASSES = ("no state change", "state change")
_PLACES = ("{}", "annotations/{}", "v2/annotations/{}", "v1/annotations/{}")


class _Clip(BaseModel):
    """What is needed of one; of those without a change others may be missing."""

    video_uid: str
    parent_start_sec: float
    parent_end_sec: float
    state_change: StrictBool | None = None


def read(root: Path, split: int) -> Annotations:
    """Raises UsageError for what is missing, and for a clip that lacks video or times."""
    lists = {part: _labelled(_clips(first_file(root, *_named(part)))) for part in ("train", "val")}
    if test := optional_file(root, *_named("test_unannotated")):
        lists["test"] = Listed([_entry(clip, None) for clip in _clips(test)])
    return Annotations(CLASSES, lists)


def _named(part: str) -> list[str]:
    return [place.format(f"fho_oscc-pnr_{part}.json") for place in _PLACES]


def _clips(file: Path) -> list[_Clip]:
    """Of {"clips": [...]}, or of the older bare list."""
    content: Any = read_json(file)
    listed = content.get("clips") if isinstance(content, dict) else content
    clips = parse_rows(file, TypeAdapter(list[_Clip]), listed)
    for number, clip in enumerate(clips, start=1):
        if not 0 <= clip.parent_start_sec < clip.parent_end_sec:
            times = f"from {clip.parent_start_sec:g} to {clip.parent_end_sec:g} s"
            raise UsageError(f"{file} entry {number}: {clip.video_uid} {times} is no window of a video")
    return clips


def _labelled(clips: list[_Clip]) -> Listed:
    known = [_entry(clip, int(clip.state_change)) for clip in clips if clip.state_change is not None]
    return Listed(known, unlabelled=len(clips) - len(known))


def _entry(clip: _Clip, label: int | None) -> Entry:
    return Entry(clip.video_uid, label, clip.parent_start_sec, clip.parent_end_sec)
