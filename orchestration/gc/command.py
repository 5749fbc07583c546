"""``everest-jobs gc``: what of old runs would go by some rules, and with ``--delete`` goes."""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from everest.errors import UsageError
from everest.tables import print_table
from orchestration.gc.rules import PARTS, Rules, Verdict, decide
from orchestration.launchers import open_launcher
from orchestration.log import span
from orchestration.settings import PlatformSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--older", metavar="AGE", help="runs without a sign of life for so long: 90d, 12h")
    parser.add_argument("--failed", metavar="AGE", help="the same for those that failed, in place of --older")
    parser.add_argument(
        "--last", type=int, metavar="N", help="the last N finished runs of an experiment in MLflow stay"
    )
    parser.add_argument("--best", type=int, metavar="N", help="runs of a sweep's N best trials stay, others' go")
    parser.add_argument(
        "--what", nargs="+", choices=PARTS, default=["checkpoints"],
        help="goes of a run (checkpoints); runs: all of it, its record in MLflow too",
    )  # fmt: skip
    parser.add_argument("--delete", action="store_true", help="do it; without it everything stays")


def gc(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    rules = rules_of(options)
    if options.launcher == "local":
        raise UsageError("--launcher local: gc is for runs in S3; runs of this machine are folders of the work folder")
    from orchestration.gc.facts import Shelf, place_of

    place = place_of(options.launcher, settings)
    shelf = Shelf(settings, open_launcher(options.launcher, settings), place)
    verdicts = decide(shelf.facts(), rules)
    going = [verdict for verdict in verdicts if verdict.parts]
    show(verdicts)
    archives = shelf.unused_code()
    if archives:
        size = shown_bytes(sum(archive.bytes for archive in archives))
        print(f"{len(archives)} archives of code that no run and no job refers to, {size}")
    if not options.delete:
        print("nothing was removed; --delete does it" if going or archives else "nothing would go", file=sys.stderr)
        return
    from orchestration.gc.removal import remove, remove_code

    left = 0
    for verdict in going:
        if why := remove(shelf, verdict):
            left += 1
            print(f"{verdict.run.name} stays: {why}", file=sys.stderr)
    print(f"{len(going) - left} runs: removed", file=sys.stderr)
    if archives:
        print(f"{remove_code(shelf, archives)} archives of code: removed", file=sys.stderr)


def rules_of(options: argparse.Namespace) -> Rules:
    """Raises UsageError where there is none, or what is given is none."""
    ages = {name: _age(name, getattr(options, name)) for name in ("older", "failed")}
    for name in ("last", "best"):
        if (getattr(options, name) or 0) < 0:
            raise UsageError(f"--{name} {getattr(options, name)}: must be 0 or more")
    rules = Rules(**ages, last=options.last, best=options.best, parts=frozenset(options.what))
    if not rules:
        raise UsageError("which runs may go? --older, --failed, --last or --best")
    return rules


def show(verdicts: Iterable[Verdict]) -> None:
    """What goes, the largest first, and what stays because somebody needs it."""
    now = datetime.now(UTC)
    going = sorted((verdict for verdict in verdicts if verdict.parts), key=_bytes, reverse=True)
    needed = [verdict for verdict in verdicts if verdict.needed]
    if going:
        lines = [["RUN", "STATE", "SEEN", "GOES", "SIZE", "WHY"]]
        for verdict in going:
            lines.append([*_about(verdict, now), "+".join(verdict.parts), _size(verdict), verdict.why])
        print_table([*lines, ["", "", "", "", shown_bytes(sum(map(_bytes, going))), f"{len(going)} runs"]])
    if needed:
        print("\n" * bool(going) + "needed:")
        print_table([[*_about(verdict, now), verdict.needed] for verdict in needed])


def _about(verdict: Verdict, now: datetime) -> Sequence[str]:
    seen = now - verdict.run.seen
    return [verdict.run.name, verdict.run.state, f"{seen.days}d" if seen.days else f"{seen.seconds // 3600}h"]


def _bytes(verdict: Verdict) -> int:
    return sum(verdict.run.sizes[part] or 0 for part in verdict.parts)


def _size(verdict: Verdict) -> str:
    unknown = any(verdict.run.sizes[part] is None for part in verdict.parts)
    return shown_bytes(_bytes(verdict)) + (" + ?" if unknown else "")


def shown_bytes(count: float) -> str:
    power = min(int(math.log2(count) / 10), 4) if count else 0
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _age(name: str, text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = span(text)
    if found is None:
        raise UsageError(f"--{name} {text!r}: must be an age as 12h or 90d")
    return found
