"""``everest cost`` and ``--plan``: what an experiment takes, before anything is started."""

import argparse
from typing import TYPE_CHECKING

from everest.arguments import overrides
from everest.config import Experiment
from everest.errors import UsageError
from everest.masks import CLASSIFY_METHODS, METHODS
from everest.tables import print_table

if TYPE_CHECKING:
    from everest.costs import Costs


def add_cost_arguments(added: argparse.ArgumentParser) -> None:
    added.add_argument("--recipe", metavar="NAME|FILE", required=True, help="a shipped recipe or a YAML file")
    added.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="NAME|FILE|METHOD",
        help="others beside it; or its own with another method",
    )


def add_plan_arguments(added: argparse.ArgumentParser) -> None:
    added.add_argument("--plan", action="store_true", help="print length, cost, memory and GPU hours, and stop")
    added.add_argument("--videos", type=int, metavar="N", help="plan for so many, where the list is not here")
    added.add_argument("--rate", type=float, metavar="CLIPS/S", help="plan with so many clips a second of a GPU")


def cost(options: argparse.Namespace, rest: list[str]) -> None:
    changes = overrides(rest)
    given = Experiment.load(options.recipe).override(changes)
    section, methods = ("mask", METHODS) if given.stage == "pretrain" else ("classify", CLASSIFY_METHODS)
    columns = {options.recipe: given}
    for name in options.against:
        columns[name] = (
            given.override({f"{section}.method": name}) if name in methods else Experiment.load(name).override(changes)
        )
    rows = zip(*(_lines(config, _costs(config)) for config in columns.values()), strict=True)
    print_table([["", *columns], *([row[0][0], *(text for _, text in row)] for row in rows)])


def plan(config: Experiment, videos: int | None, rate: float | None) -> None:
    """Raises UsageError where there is neither a list nor a number of videos."""
    from everest.data.index import read_index
    from everest.data.loader import TrainOrder

    if videos is not None and videos < 1:
        raise UsageError(f"--videos {videos}: must be at least 1")
    if rate is not None and rate <= 0:
        raise UsageError(f"--rate {rate:g}: must be above 0")
    if videos is None:
        if config.data.train is None:
            raise UsageError("data.train is not given; --videos N plans without it")
        try:
            videos = len(read_index(config.data.train, config.data.root).videos)
        except (UsageError, OSError) as error:
            raise UsageError(f"{error}; --videos N plans without it") from None
    order, optim = TrainOrder(videos, config), config.optim
    clips = order.steps * optim.batch_size
    found = _costs(config)
    lines = [
        ("videos", f"{videos:,}"),
        ("steps", f"{order.steps:,} of {optim.batch_size} clips, {order.steps_per_epoch:,} an epoch"),
        ("clips in all", f"{clips:,}"),
        ("processes", f"any number that divides {optim.micro_batches} micro-batches of {optim.micro_batch} clips"),
        *_lines(config, found),
        ("training in all", f"{found.step_flops * clips / 1e18:.4g} x 10^18 FLOPs"),
        (
            "GPU hours",
            f"{clips / rate / 3600:,.1f} at {rate:g} clips/s a GPU" if rate else "say --rate CLIPS/S of a GPU",
        ),
    ]
    print_table(lines)


def _costs(config: Experiment) -> "Costs":
    from everest.costs import costs

    return costs(config, config.classify.num_classes or 1000, in_bfloat16=config.optim.precision != "float32")


def _lines(config: Experiment, found: "Costs") -> list[tuple[str, str]]:
    optim = config.optim
    half = "bfloat16" if optim.precision != "float32" else "float32"
    return [
        ("parameters", f"{found.parameters / 1e6:.1f} M"),
        ("forward pass of a clip, as papers count", f"{found.published / 1e9:.4g} G multiply-adds"),
        (
            "the same with selection, as done here",
            f"{found.multiply_adds / 1e9:.4g} G, {found.multiply_adds / 5e8:.4g} GFLOPs",
        ),
        ("training step of a clip", f"{found.step_flops / 1e9:.4g} GFLOPs"),
        (f"kept for the backward pass, {half}", f"{found.kept_bytes / 1e6:.4g} MB a clip"),
        ("peak of a process", f"{found.peak_bytes / 1e9:.4g} GB with {optim.micro_batch} clips"),
    ]
