"""What a pod of a packing runs: ``python -m orchestration.pod.pack PARTS ARGUMENTS`` does the part of its index."""

import os
import sys
from typing import NoReturn

from everest.cli import main as everest


def main() -> NoReturn:
    parts, *arguments = sys.argv[1:]
    number = int(os.environ["JOB_COMPLETION_INDEX"]) + 1
    everest(["data", "pack", *arguments, "--part", f"{number}/{parts}"])


if __name__ == "__main__":
    main()
