"""``everest data prepare``: lists of a published set from its own annotation files."""

import argparse
from pathlib import Path

from everest.arguments import nothing_left
from everest.cores import usable_cores
from everest.data.prepare.sets import SETS
from everest.errors import UsageError


def add_prepare_command(added: argparse.ArgumentParser) -> None:
    added.set_defaults(run=_prepare, doing="data prepare")
    added.add_argument("set", choices=SETS, metavar="|".join(SETS))
    added.add_argument("root", type=Path, help="the folder below which annotation files and videos are")
    added.add_argument("out", type=Path, help="where train.csv, val.csv, classes.txt and report.json are written")
    added.add_argument("--videos", type=Path, metavar="FOLDER", help="below which the videos are (the same folder)")
    added.add_argument("--split", type=int, metavar="1-3", help="of UCF101 and HMDB51 (1)")
    added.add_argument("--check", action="store_true", help="decode every video, and leave out what is broken")
    added.add_argument("--workers", type=int, default=usable_cores(), metavar="N", help="that check (one a core)")


def _prepare(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.data.prepare.prepare import Preparation
    from everest.progress import ProgressBar, start_logging

    if options.workers < 1:
        raise UsageError(f"--workers {options.workers}: must be at least 1")
    start_logging()
    preparation = Preparation(options.set, options.root, options.out, options.split, options.videos)
    if options.check:
        with ProgressBar("check", len(preparation)) as bar:
            preparation.check(options.workers, advance=bar.advance)
    print(*preparation.write().lines(), sep="\n")
