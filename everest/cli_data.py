"""``everest data …``: what is done with sets of videos before training."""

import argparse
import os
from pathlib import Path

from everest.arguments import nothing_left
from everest.config import DataConfig
from everest.errors import EverestError, UsageError


def add_data_commands(parser: argparse.ArgumentParser) -> None:
    data = parser.add_subparsers(required=True, metavar="WHAT")
    added = data.add_parser("check", help="try every video of a list or folder, and report the unreadable ones")
    added.set_defaults(run=_check, doing="data check")
    added.add_argument("source", type=Path, metavar="LIST|FOLDER")
    added.add_argument("--root", type=Path, help="what relative paths of the list start from")
    added.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    added.add_argument("--deep", action="store_true", help="reach every frame by seeking, not eight of each video")
    added = data.add_parser("synth", help="write a labelled set of moving things as H.264 files")
    added.set_defaults(run=_synth, doing="data synth")
    added.add_argument("out", type=Path)
    for name, default, what in (
        ("train", 640, "training videos"),
        ("val", 160, "validation videos"),
        ("size", 64, "pixels a side"),
        ("frames", 32, "frames a video"),
        ("seed", 0, "of all random choices"),
    ):
        added.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} ({default})")


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.data.check import verdicts
    from everest.data.index import read_index
    from everest.data.labels import remarks
    from everest.progress import ProgressBar

    index = read_index(options.source, options.root)
    for line in remarks(index):
        print(f"{options.source}: {line}")
    bad, odd = [], 0
    with ProgressBar("check", len(index.videos)) as bar:
        for path, unreadable, remark in verdicts(index, options.workers, options.deep):
            bar.advance()
            if unreadable:
                bad.append(path)
            if unreadable or remark:
                odd += not unreadable
                print(f"{path}: {unreadable or remark}", flush=True)
    print(f"{len(index.videos)} videos, {len(index.classes)} classes, {len(bad)} unreadable, {odd} odd but readable")
    if bad:
        share, allowed = len(bad) / len(index.videos), DataConfig().max_bad
        raise EverestError(f"{share:.1%} of the videos are unreadable; a run allows {allowed:.0%} (data.max_bad)")


def _synth(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.data.synthetic import CLASSES, synthesize
    from everest.progress import ProgressBar

    for name, least in (("train", len(CLASSES)), ("val", len(CLASSES)), ("size", 16), ("frames", 2), ("seed", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} {getattr(options, name)}: must be at least {least}")
    if options.size % 2:
        raise UsageError(f"--size {options.size}: must be even, as H.264 has it")
    with ProgressBar("synth", options.train + options.val) as bar:
        synthesize(
            options.out, options.train, options.val, options.size, options.frames, options.seed,
            progress=lambda done, _total: bar.advance(done - bar.done),
        )  # fmt: skip
    print(f"{options.out}/train.csv {options.train} videos, val.csv {options.val}, {len(CLASSES)} classes of motion")
