"""``everest-jobs costs``: GPU hours, and money, by whom and for what they were taken."""

import argparse
import logging
from collections.abc import Container, Mapping
from datetime import datetime

from everest.errors import EverestError
from everest.tables import print_table
from orchestration.hours import Spent, stays_of, sums
from orchestration.log import since
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

BY = ("user", "experiment", "sweep", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=BY, default="user", help="whose (user)")
    parser.add_argument("--since", metavar="TIME", help="taken since: 7d, 12h or 2026-11-27")


def costs(options: argparse.Namespace, settings: PlatformSettings, _: list[str]) -> None:
    moment = datetime.fromisoformat(since(options.since)) if options.since else None
    stays = stays_of(settings, since=moment)
    found = sums(stays, lambda stay: str(getattr(stay, options.by)), settings.gpu_hour_price, moment)
    print_table(table(found, options.by))


def spent_by(settings: PlatformSettings, runs: Container[str]) -> Mapping[str, Spent]:
    """These runs with all their starts; empty where that cannot be asked for, which is said."""
    if not settings.s3_bucket:
        return {}
    try:
        return sums(stays_of(settings, runs), lambda stay: stay.run, settings.gpu_hour_price)
    except EverestError as error:
        log.warning("no GPU hours: %s", error)
        return {}


def table(found: dict[str, Spent], by: str) -> list[list[str]]:
    """What took most comes first, and all of it last. What has no such name is ``-``."""
    ordered = sorted(found.items(), key=lambda each: each[1].gpu_hours, reverse=True)
    lines = [[name or "-", *_numbers(spent)] for name, spent in ordered]
    whole = Spent(set().union(*(spent.runs for spent in found.values())))
    whole.starts = sum(spent.starts for spent in found.values())
    whole.gpu_hours = sum(spent.gpu_hours for spent in found.values())
    monies = [spent.money for spent in found.values() if spent.money is not None]
    whole.money = sum(monies) if len(monies) == len(found) else None
    return [[by.upper(), "RUNS", "STARTS", "GPU HOURS", "COST"], *lines, ["all", *_numbers(whole)]]


def _numbers(spent: Spent) -> list[str]:
    return [str(len(spent.runs)), str(spent.starts), shown(spent.gpu_hours), shown(spent.money)]


def shown(hours_or_money: float | None) -> str:
    return "-" if hours_or_money is None else f"{hours_or_money:.2f}"
