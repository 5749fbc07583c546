"""The videos to pack: of this machine, or fetched one by one from where a list at an address says they are."""

import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from everest.data.files import VideoFile, VideoFiles
from everest.data.index import SUFFIXES, VideoIndex, read_files
from everest.data.packed.manifest import is_packed
from everest.data.packed.place import Place, is_address, place_at
from everest.errors import UsageError

_LISTS = {".csv", ".tsv", ".txt", ".lst", ".list"}


@dataclass(frozen=True)
class Source:
    """A list, and a way to the files it names."""

    index: VideoIndex[VideoFiles]
    here: Callable[[VideoFile], AbstractContextManager[Path]]  # where a video is to be read, while that lasts


@contextmanager
def source_at(source: str, root: Path | None) -> Iterator[Source]:
    """A list or folder, or the address of one: paths of a list are looked for beside it. Raises UsageError."""
    if not is_address(source):
        if is_packed(source):
            raise UsageError(f"{source} is a packed set already; give the list or folder that it was made from")
        yield Source(read_files(Path(source), root), lambda video: nullcontext(video.path))
        return
    above, _, name = source.rstrip("/").rpartition("/")
    listed = PurePosixPath(name).suffix.lower() in _LISTS
    place = place_at(above if listed else source)
    with tempfile.TemporaryDirectory(prefix="everest-pack-") as folder:
        file = Path(folder) / (name if listed else "videos.csv")
        file.write_text(_text(place, name) if listed else _list_of(place), "utf-8", "surrogateescape")
        if listed and (classes := place.text("classes.txt")) is not None:
            file.with_name("classes.txt").write_text(classes, "utf-8")
        index = read_files(file)
        for path in index.videos.paths():
            if not path.startswith(f"{folder}/") or ".." in PurePosixPath(path).parts:
                raise UsageError(f"{source}: {path} is not beside the list; its videos must be, with paths from there")
        yield Source(index, lambda video: _fetched(place, str(video.path.relative_to(folder))))


def _text(place: Place, name: str) -> str:
    text = place.text(name)
    if text is None:
        raise UsageError(f"{place.address}/{name} does not exist; give the address of a list or of a folder of videos")
    return text


def _list_of(place: Place) -> str:
    """As a folder of videos, or one with a folder per class, would be read."""
    names = sorted(name for name in place.names() if _is_video(PurePosixPath(name)))
    if not names:
        raise UsageError(f"{place.address} has no videos; give the address of a list or of a folder of videos")
    if len({"/" in name for name in names}) > 1:
        raise UsageError(f"{place.address} has videos beside folders of videos; give one or the other")
    lines = io.StringIO()
    table = csv.writer(lines, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerows([name, name.partition("/")[0]] if "/" in name else [name] for name in names)
    return lines.getvalue()


def _is_video(name: PurePosixPath) -> bool:
    return name.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in name.parts)


@contextmanager
def _fetched(place: Place, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="everest-pack-") as folder:
        file = Path(folder) / f"video{PurePosixPath(name).suffix}"
        place.copy(name, file)
        yield file
