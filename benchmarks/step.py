"""A training step beside that of the transformers library's VideoMAE, in one run: ``make bench``.

Whole steps as they are trained, data excluded: loss, backward, clipping, AdamW, zeroing. Both sides in turns in one
process, medians of the rounds; then the parts of our step, longer and larger clips, and several processes. On a GPU
also the share of its peak, how often a step waits, and memory beside the paper's.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import machine, paper
from benchmarks.case import Case, Precision
from benchmarks.lengths import cost_of, longer
from benchmarks.pair import compared
from benchmarks.parts import parts_of
from benchmarks.processes import counts, with_processes
from benchmarks.report import Report
from benchmarks.sides import ours
from everest.errors import UsageError
from everest.program import exit_code
from everest.progress import ProgressBar, clock
from everest.training.compiling import lacking
from everest.training.distributed import Process

STEPS, PARTS, LENGTHS, PROCESSES, MEMORY = SECTIONS = ("steps", "parts", "lengths", "processes", "memory")

#: Operations to train on a clip of 16 x 224 x 224, to tell beforehand how long it all takes.
_FLOPS = {
    "pretrain": {"small": 38e9, "base": 130e9, "large": 370e9, "huge": 800e9},
    "finetune": {"small": 175e9, "base": 590e9, "large": 2e12, "huge": 4e12},
}
_COMPILES_S, _STARTS_S = 90, 30


Rates = dict[Precision, float]


class Job(NamedTuple):
    """One line of a table. ``seconds`` is a guess."""

    section: str
    title: str
    seconds: float
    run: Callable[[], dict[str, object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure")
    parser.add_argument("--stages", nargs="+", choices=("pretrain", "finetune"), default=("pretrain", "finetune"))
    parser.add_argument("--sizes", nargs="+", choices=tuple(_FLOPS["pretrain"]), default=("small", "base"))
    parser.add_argument(
        "--precisions", nargs="+", choices=("float32", "bfloat16"), help="those that this machine gains by"
    )
    parser.add_argument("--compile", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--recompute", action="store_true", help="ours with optim.recompute")
    parser.add_argument("--batch", type=int, help="clips a step; 2, and on a GPU 32 in pre-training, 16 in fine-tuning")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", nargs="+", type=int, default=(16, 24, 32, 64), help="lengths of clips")
    parser.add_argument("--image-sizes", nargs="+", type=int, default=(224, 288, 384), help="sizes of clips")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where numbers go, as they come")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="cost of longer and larger clips, as PNG")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one round: whether it works, not how fast")
    sys.exit(exit_code("bench", lambda: _bench(parser.parse_args())))


def _bench(options: argparse.Namespace) -> None:
    if options.rounds < 1:
        raise UsageError(f"--rounds {options.rounds} must be at least 1")
    if options.batch is not None and options.batch < 1:
        raise UsageError(f"--batch {options.batch} must be at least 1")
    if options.plot and LENGTHS not in options.only:
        raise UsageError("--plot draws what --only lengths measures")
    device = machine.device()
    kinds: tuple[Precision, ...] = ("float32", "bfloat16")
    rates: Rates = {kind: machine.flops_per_s(kind, device) for kind in kinds}
    report = Report(machine.described(), rates, options.json)
    for line in report.head():
        print(line)
    jobs = list(_jobs(options, rates, device))
    print(f"{len(jobs)} measurements, about {clock(sum(job.seconds for job in jobs))} on an idle machine", flush=True)
    with ProgressBar("bench", round(sum(job.seconds for job in jobs)), every_s=0) as bar:
        for job in jobs:
            report.add(job.section, job.run())
            _forget(device)
            bar.advance(round(job.seconds))
    report.show()
    if options.plot:
        report.plot(options.plot)


def _jobs(options: argparse.Namespace, rates: dict[Precision, float], device: torch.device) -> Iterator[Job]:
    cases = list(_cases(options, rates, device))
    rounds = 1 if options.quick else options.rounds
    eager = [case for case in cases if not case.compiled]
    if STEPS in options.only:
        for case in cases:
            seconds = _seconds(case, rates) * (4.2 * (rounds + 1) + 7) + 2 * _COMPILES_S * case.compiled
            yield Job(STEPS, case.title, seconds, partial(compared, case, rounds, device))
    if PARTS in options.only:
        for case in eager:
            yield Job(PARTS, case.title, _seconds(case, rates) * (rounds + 2), partial(_parts, case, rounds, device))
    if LENGTHS in options.only:
        for case in _longer(options, eager, device):
            yield Job(LENGTHS, case.title, _seconds(case, rates) * 6, partial(cost_of, case, 1, device))
    if PROCESSES in options.only:
        case = [case for case in eager if case.stage == options.stages[0]][-1]
        for count in counts():
            seconds = _STARTS_S + _seconds(case, rates) * (rounds + 1) * max(counts())
            yield Job(PROCESSES, case.title, seconds, partial(with_processes, count, case, rounds))
    if MEMORY in options.only and device.type == "cuda" and not options.quick:
        for size, printed in paper.PRINTED.items():
            for total in printed:
                yield Job(MEMORY, f"{size} {total}", 5, partial(paper.memory_of, size, total, device))


def _cases(options: argparse.Namespace, rates: dict[Precision, float], device: torch.device) -> Iterator[Case]:
    compiled = {"no": [False], "yes": [True], "both": [False, True]}[options.compile]
    if True in compiled and (lack := lacking(device)):
        print(f"compiled steps are left out for want of {lack}")
        compiled.remove(True)
    gains = rates["bfloat16"] > rates["float32"]
    if not options.precisions and not gains:
        print("this machine multiplies bfloat16 more slowly than float32: bfloat16 is left out")
    for stage in options.stages:
        batch = options.batch or ({"pretrain": 32, "finetune": 16}[stage] if device.type == "cuda" else 2)
        for size in options.sizes:
            for precision in options.precisions or (("float32", "bfloat16") if gains else ("float32",)):
                for each in compiled:
                    case = Case(stage, size, precision, each, options.recompute, batch)
                    yield replace(case, frames=4, image_size=32, tiny=True) if options.quick else case


def _longer(options: argparse.Namespace, cases: list[Case], device: torch.device) -> Iterator[Case]:
    """The largest size of each stage in its best precision."""
    for stage in options.stages:
        case = [case for case in cases if case.stage == stage][-1]
        clips = options.batch or (8 if device.type == "cuda" else 1)
        frames, sizes = ((4, 8), (32, 48)) if options.quick else (options.frames, options.image_sizes)
        yield from longer(replace(case, batch=clips, frames=frames[0], image_size=sizes[0]), frames, sizes)


def _parts(case: Case, rounds: int, device: torch.device) -> dict[str, object]:
    seconds = parts_of(ours(case, Process(0, 1, device)), rounds, device)
    return case.named | {"batch": case.batch, "seconds": seconds}


def _seconds(case: Case, rates: dict[Precision, float]) -> float:
    """Of a step: a guess."""
    if case.tiny:
        return 0.2
    tokens = case.experiment().model.tokens / 1568
    return _FLOPS[case.stage][case.size] * case.batch * tokens**1.2 / (0.7 * rates[case.precision])


def _forget(device: torch.device) -> None:
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
