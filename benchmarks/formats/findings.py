"""What each format hands out, whether it notices a wrong byte, and whether it is written the same again."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.formats.clips import as_written, random_clips
from benchmarks.formats.each import Format
from everest.data.packed.place import FileSum

_CLIPS = 40


def show(formats: dict[str, Format], folder: Path, frames: list[list[bytes]]) -> None:
    """Each is in ``folder`` twice; the second one is damaged."""
    expected = random_clips(as_written(frames), frames, _CLIPS, np.random.default_rng(0))
    table = Table("format", "hands out what was written", "a damaged frame", "written twice")
    for name, each in formats.items():
        found = random_clips(each.open(str(folder / name)), frames, _CLIPS, np.random.default_rng(0))
        again = folder / f"{name} again"
        twice = _difference(_sums(folder / name), _sums(again))
        damaged = "is noticed" if _notices(each, again, frames[1][8]) else "is handed out"
        table.add_row(name, "yes" if found == expected else "NO", damaged, twice)
    Console(soft_wrap=True).print(table)


def _sums(folder: Path) -> dict[str, FileSum]:
    return {str(file.relative_to(folder)): FileSum.of(file) for file in folder.rglob("*") if file.is_file()}


def _difference(one: dict[str, FileSum], other: dict[str, FileSum]) -> str:
    if one.keys() != other.keys():
        return "other files"
    return ", ".join(f"other {name}" for name in one if one[name] != other[name]) or "same bytes"


def _notices(written: Format, folder: Path, jpeg: bytes) -> bool:
    """Whether reading a frame with one wrong byte in its file ends in an error."""
    for file in folder.rglob("*"):
        if file.is_file() and (place := (content := file.read_bytes()).find(jpeg)) >= 0:
            place += len(jpeg) // 2
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    try:
        found = written.open(str(folder))(1, np.array([8]))
    except Exception:
        return True
    if found == [jpeg]:
        raise AssertionError(f"{folder.name}: the frame was not found to be damaged")
    return False
