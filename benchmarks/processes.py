"""Weak scaling: as many clips a process, more processes. Each is started by torchrun, as a run's are."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict

import torch

from benchmarks.case import Case
from benchmarks.machine import device
from benchmarks.sides import ours
from benchmarks.timing import in_turns
from everest.cores import usable_cores
from everest.training.distributed import processes


def counts() -> list[int]:
    """Of GPUs 1, 2, 4 … and all; of CPUs 1 and 2."""
    if not torch.cuda.is_available():
        return [1, 2]
    gpus = torch.cuda.device_count()
    return sorted({number for number in (1, 2, 4, 8) if number < gpus} | {gpus})


def with_processes(count: int, case: Case, rounds: int) -> dict[str, object]:
    """Seconds of a step of so many processes, each on its GPU or its share of the cores."""
    threads = max(1, usable_cores() // max(counts()))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    worker = ["-m", "benchmarks.processes", json.dumps(asdict(case)), str(rounds)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *worker],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = json.loads(done.stdout.splitlines()[-1])
    return case.named | {
        "processes": count,
        "threads": threads,
        "batch": case.batch,
        "seconds": seconds,
        "clips_per_s": count * case.batch / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="One of the processes that benchmarks.processes starts.")
    parser.add_argument("case", type=json.loads)
    parser.add_argument("rounds", type=int)
    options = parser.parse_args()
    with processes(device()) as process:
        side = ours(Case(**options.case), process)
        seconds = in_turns({"ours": side.step}, options.rounds, process.device)["ours"].wall
        if process.main:
            print(json.dumps(seconds))


if __name__ == "__main__":
    main()
