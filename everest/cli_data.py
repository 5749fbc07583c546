"""``everest data …``: what is done with sets of videos before training."""

import argparse
from pathlib import Path
from typing import Any

from everest.arguments import nothing_left
from everest.cli_prepare import add_prepare_command
from everest.config import DataConfig
from everest.cores import usable_cores
from everest.errors import EverestError, UsageError

_SHARE = f"of unreadable videos that ends it ({DataConfig().max_bad:g})"


def add_data_commands(parser: argparse.ArgumentParser) -> None:
    data = parser.add_subparsers(required=True, metavar="WHAT")
    added = data.add_parser("check", help="try every video of a list or folder, and report the unreadable ones")
    added.set_defaults(run=_check, doing="data check")
    added.add_argument("source", metavar="LIST|FOLDER|PACKED SET")
    added.add_argument("--root", type=Path, help="what relative paths of the list start from")
    added.add_argument("--workers", type=int, default=usable_cores())
    added.add_argument("--deep", action="store_true", help="reach every frame by seeking, not eight of each video")
    added = data.add_parser("pack", help="make a set for training: every frame a JPEG, in tar files with an index")
    added.set_defaults(run=_pack, doing="data pack")
    added.add_argument("source", metavar="LIST|FOLDER", help="or s3://BUCKET/PREFIX of one, with the videos beside it")
    added.add_argument("out", metavar="FOLDER|s3://BUCKET/PREFIX", help="typed again it goes on where it was")
    added.add_argument("--root", type=Path, help="what relative paths of the list start from")
    added.add_argument("--part", default="1/1", metavar="3/8", help="one of so many that share the work")
    added.add_argument("--workers", type=int, default=usable_cores(), metavar="N", help="videos at a time (one a core)")
    added.add_argument("--max-bad", type=float, default=DataConfig().max_bad, metavar="SHARE", help=_SHARE)
    for name, default, what in (
        ("short-side", 256, "pixels of the shorter side"),
        ("quality", 90, "of the JPEGs, 1 to 95"),
        ("every", 1, "keep one frame in N; divide data.rate by it"),
        ("shard-videos", None, "videos of a tar file (64, fewer of a small set)"),
    ):
        shown = f" ({default})" if default else ""
        added.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what}{shown}")
    add_prepare_command(data.add_parser("prepare", help="lists of a published set from its own annotation files"))
    added = data.add_parser("synth", help="write a labelled set of moving things as H.264 files")
    added.set_defaults(run=_synth, doing="data synth")
    added.add_argument("out", type=Path)
    what = "moving things all the time; or minutes of little, with a short event of a class (short)"
    added.add_argument("--kind", choices=("short", "uncurated"), default="short", help=what)
    for name, default, what in (
        ("train", None, "training videos (640; 24 uncurated ones)"),
        ("val", None, "validation videos (160; 8 uncurated ones)"),
        ("size", 64, "pixels a side (64)"),
        ("frames", None, "frames of a short video (32)"),
        ("seconds", None, "seconds of an uncurated video (60)"),
        ("seed", 0, "of all random choices (0)"),
    ):
        added.add_argument(f"--{name}", type=int, default=default, metavar="N", help=what)
    added.add_argument(
        "--camera", choices=("still", "pan", "zoom", "shake", "mixed"), help="what it does in a short video (still)"
    )
    added.add_argument(
        "--scene", choices=("plain", "cluttered"), help="whether things stand out in a short video (plain)"
    )


def _pack(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.data.packed.pack import Packing, Part, how_to_pack
    from everest.data.packed.place import place_at
    from everest.data.packed.source import source_at
    from everest.progress import ProgressBar, start_logging

    for name, least, most in (("short_side", 16, 4096), ("quality", 1, 95), ("every", 1, None), ("workers", 1, None)):
        if (given := getattr(options, name)) < least or (most and given > most):
            limits = f"from {least} to {most}" if most else f"at least {least}"
            raise UsageError(f"--{name.replace('_', '-')} {given}: must be {limits}")
    if options.shard_videos is not None and options.shard_videos < 1:
        raise UsageError(f"--shard-videos {options.shard_videos}: must be at least 1")
    if not 0 <= options.max_bad <= 1:
        raise UsageError(f"--max-bad {options.max_bad}: must be a share, from 0 to 1")
    start_logging()
    part = Part.parse(options.part)
    with source_at(options.source, options.root) as source:
        how = how_to_pack(source.index, options.short_side, options.quality, options.every, options.shard_videos)
        packing = Packing(source, how, place_at(options.out), part, options.max_bad, DataConfig().time_limit)
        packing.begin()
        with ProgressBar("pack", packing.videos) as bar:
            packing.advance = bar.advance
            packing.pack(options.workers)
        manifest = packing.finish()
    if manifest is None:
        done = f"part {part.number} of {part.of} is done"
        print(f"{options.out}: {done}; {packing.missing} of {packing.shards} tar files are still to be made by others")
        return
    print(f"{options.out}: {manifest.summary()}")


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.data.check import verdicts
    from everest.data.index import read_files
    from everest.data.labels import remarks
    from everest.data.packed.manifest import is_packed
    from everest.progress import ProgressBar

    if is_packed(options.source):
        _check_packed(options.source, options.workers)
        return
    index = read_files(Path(options.source), options.root)
    for line in remarks(index):
        print(f"{options.source}: {line}")
    bad, odd = 0, 0
    with ProgressBar("check", len(index.videos)) as bar:
        for path, unreadable, remark in verdicts(index, options.workers, options.deep):
            bar.advance()
            bad += unreadable is not None
            if unreadable or remark:
                odd += not unreadable
                print(f"{path}: {unreadable or remark}", flush=True)
    print(f"{len(index.videos)} videos, {len(index.classes)} classes, {bad} unreadable, {odd} odd but readable")
    if bad:
        share, allowed = bad / len(index.videos), DataConfig().max_bad
        raise EverestError(f"{share:.1%} of the videos are unreadable; a run allows {allowed:.0%} (data.max_bad)")


def _check_packed(source: str, workers: int) -> None:
    from everest.data.packed.check import verdicts
    from everest.data.packed.manifest import read_manifest
    from everest.data.packed.place import place_at
    from everest.progress import ProgressBar

    place = place_at(source)
    manifest, bad = read_manifest(place), 0
    with ProgressBar("check", len(manifest.files)) as bar:
        for name, wrong, _ in verdicts(place, manifest, workers):
            bar.advance()
            if wrong:
                bad += 1
                print(f"{name}: {wrong}", flush=True)
    print(f"{manifest.summary()}; {bad} of {len(manifest.files)} files are not as they were packed")
    if bad:
        raise EverestError(f"{source} is damaged; pack it anew")


#: What each kind of synthetic set is told beside its size and seed, and what it is otherwise.
_SYNTH: dict[str, dict[str, Any]] = {
    "short": {"train": 640, "val": 160, "frames": 32, "camera": "still", "scene": "plain"},
    "uncurated": {"train": 24, "val": 8, "seconds": 60},
}


def _synth(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.data.synthetic import CLASSES, synthesize
    from everest.data.uncurated import EVENTS, synthesize_uncurated
    from everest.progress import ProgressBar

    uncurated, settings = options.kind == "uncurated", _SYNTH[options.kind]
    for name in sorted({name for kind in _SYNTH.values() for name in kind} - settings.keys()):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} {getattr(options, name)}: not for --kind {options.kind}")
    given = {name: default if (told := getattr(options, name)) is None else told for name, default in settings.items()}
    given |= {"size": options.size, "seed": options.seed}
    least = {"train": len(CLASSES), "val": len(CLASSES), "size": 16, "frames": 2, "seconds": 4, "seed": 0}
    for name in least.keys() & given.keys():
        if given[name] < least[name]:
            raise UsageError(f"--{name} {given[name]}: must be at least {least[name]}")
    if options.size % 2:
        raise UsageError(f"--size {options.size}: must be even, as H.264 has it")
    synth = synthesize_uncurated if uncurated else synthesize
    with ProgressBar("synth", given["train"] + given["val"]) as bar:
        synth(options.out, **given, progress=lambda done, _total: bar.advance(done - bar.done))
    what = f"{len(CLASSES)} classes of motion" + (f", {EVENTS} when they move" if uncurated else "")
    print(f"{options.out}/train.csv {given['train']} videos, val.csv {given['val']}, {what}")
