"""``everest find``: where something happens in long videos."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from everest.arguments import nothing_left
from everest.config import FramesConfig
from everest.errors import EverestError, UsageError
from everest.program import all_done, naming

if TYPE_CHECKING:
    from everest.find.intervals import Interval
    from everest.find.timeline import Look
    from everest.training.device import Wanted

_KEEP = FramesConfig().keep_ratio


def add_find_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="intervals to find (5)")
    parser.add_argument("--length", type=float, default=2.0, metavar="S", help="seconds of an interval (2)")
    what = (
        "tokens change by their pixels, or by their embedding, of --model or a random one; residual: against the "
        "camera's motion (pixel; rero with --model)"
    )
    parser.add_argument("--method", choices=("pixel", "rero", "residual"), help=what)
    parser.add_argument("--model", type=Path, help="a run's folder, or an exported model, for its embedding and sizes")
    parser.add_argument("--rate", type=int, metavar="N", help="look at one frame in N (4, or as the model)")
    what = f"tokens to keep, as a share of those in what is shown, that is in TOP x LENGTH seconds ({_KEEP:g})"
    parser.add_argument("--keep", type=float, default=_KEEP, metavar="SHARE", help=what)
    parser.add_argument("--film", action="store_true", help="the intervals as a film too")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: find/ in the work folder")


def find(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    _check(options)
    from everest.data.decode import DecodeError
    from everest.figures import distinct_names
    from everest.progress import start_logging
    from everest.settings import LocalSettings

    settings = LocalSettings.load()
    start_logging()
    folder = options.out or settings.work / "find"
    look = _look(options, settings.device)
    names, failed = distinct_names(options.videos, folder), 0
    for video, name in names.items():
        try:
            _find_in(video, folder / name, look, options)
        except (DecodeError, EverestError) as error:
            failed += 1
            print(f"everest: {naming(video, error)}", file=sys.stderr)
    all_done(failed, len(names))


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError."""
    for name in ("top", "length", "rate"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value:g}: must be more than 0")
    if not 0 < options.keep <= 1:
        raise UsageError(f"--keep {options.keep:g}: must be a share, more than 0 and at most 1")


def _look(options: argparse.Namespace, wanted: "Wanted") -> "Look":
    from everest.export import load_model
    from everest.find.timeline import Look
    from everest.model.masks import ranking
    from everest.training.device import choose_device

    if options.model is None:
        return Look.untrained(ranking(options.method or "pixel"), options.rate or 4)
    exported = load_model(options.model)
    config, embed = exported.config, exported.model.patch_embed.to(choose_device(wanted))
    method, rate = options.method or "rero", options.rate or config.data.rate
    return Look(embed, ranking(method), config.frames.distance, config.model.image_size, rate)


def _find_in(video: Path, out: Path, look: "Look", options: argparse.Namespace) -> None:
    """Writes what is found in a video: to ``out`` with a suffix each. Raises DecodeError."""
    from everest.find import show
    from everest.find.intervals import most_informative
    from everest.find.timeline import read_timeline
    from everest.progress import ProgressBar

    with ProgressBar(f"{video.name}, seconds", 1) as bar:

        def progress(done: float, of: float) -> None:
            bar.total = max(1, round(of))
            if int(done) != bar.done:
                bar.advance(int(done) - bar.done)

        timeline = read_timeline(video, look, options.keep, options.top * options.length, progress)
    intervals = most_informative(timeline, options.length, options.top)
    csv, numbers, png, mp4 = (out.with_name(f"{out.name}{suffix}") for suffix in (".csv", ".json", ".png", ".mp4"))
    show.write_list(csv, video, intervals)
    show.write_numbers(numbers, video, timeline, intervals)
    show.draw(png, video, timeline, intervals)
    written = [csv, numbers, png]
    if options.film and intervals:
        show.write_film(mp4, video, timeline, intervals)
        written.append(mp4)
    _print(video, timeline.seconds, intervals, written)


def _print(video: Path, seconds: float, intervals: Sequence["Interval"], written: Sequence[Path]) -> None:
    from everest.progress import clock

    print(f"{video}: {clock(seconds)}" + ("" if intervals else ", in which nothing changes"))
    for interval in intervals:
        print(f"  {interval.start:9.2f} s to {interval.end:9.2f} s  {interval.score:6.1%}")
    print(*(f"  {path}" for path in written), sep="\n")
