"""``everest compare``: methods with several seeds at equal budgets, as a sweep of another package."""

import argparse
from pathlib import Path


def add_compare_arguments(added: argparse.ArgumentParser) -> None:
    added.add_argument("comparison", metavar="NAME|FILE", help="a shipped comparison or a YAML file")
    added.add_argument("--study", metavar="NAME", help="of the comparison (the file's)")
    added.add_argument("--plan", action="store_true", help="print steps and operations of every method, and stop")
    added.add_argument("--seeds", type=int, metavar="N", help="instead of the file's")
    added.add_argument("--equal", choices=("flops", "steps", "seconds"), help="what methods are given (the file's)")
    added.add_argument("--parallel", type=int, default=1, metavar="N", help="runs at a time (1)")
    added.add_argument("--launcher", choices=("local", "kubernetes"), default="local", help="where runs go (local)")
    added.add_argument("--out", type=Path, metavar="FOLDER", help="of the report (compare/NAME in the work folder)")


def compare(options: argparse.Namespace, rest: list[str]) -> None:
    from everest.plugins import load_plugin

    load_plugin("commands", "compare")(options, rest)
