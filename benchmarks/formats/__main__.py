"""Packed sets beside maintained formats: what a random clip costs, and what each notices (docs/packed-format.md).

Without adding these formats to the project's requirements::

    .venv/bin/uv run --no-project --python .venv/bin/python --with pylance --with litdata --with webdataset \\
        python -m benchmarks.formats

Every format holds the very same JPEGs. A clip is 16 frames, every fourth, from a random place of a random video, read
by one core and not decoded: from a folder, and from the tests' S3 server if there is one.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import lance
import litdata
import webdataset

from benchmarks.formats import clips, findings, from_folder, from_s3
from benchmarks.formats.each import formats_of, pack
from benchmarks.videos import VIDEOS
from everest.errors import UsageError
from everest.program import exit_code

_GOOD = ("arm_wrestling.mp4", "dog.mp4", "flipping_a_pancake.mkv", "movie_scene.mp4", "part_0.mp4", "test.avi")
_COPIES = 4  # of each video in the set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="folder of the clips")
    sys.exit(exit_code("bench-formats", lambda: _bench(parser.parse_args().videos)))


def _bench(videos: Path) -> None:
    if missing := [name for name in _GOOD if not (videos / name).is_file()]:
        raise UsageError(f"{videos} lacks {', '.join(missing)}; --videos names a folder that has them")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch  # in there LitData empties folders of common names
        folder = Path(scratch)
        listed = folder / "list.txt"
        listed.write_text("\n".join(str((videos / name).resolve()) for name in _GOOD * _COPIES))
        pack(listed, folder / "jpegs")
        frames = list(clips.videos(folder / "jpegs"))
        size = sum(len(jpeg) for video in frames for jpeg in video)
        print(f"{len(frames)} videos, {sum(map(len, frames))} frames, {size / 1e6:.1f} MB of JPEGs")
        print(f"lance {lance.__version__}, litdata {litdata.__version__}, webdataset {webdataset.__version__}")
        formats = formats_of(listed, frames, folder / "jpegs")
        for name, each in formats.items():
            each.write(folder / name)
            each.write(folder / f"{name} again")
        from_folder.show(formats, folder, frames)
        findings.show(formats, folder, frames)
        from_s3.show(formats, folder, frames)


if __name__ == "__main__":
    main()
