"""The everest command in several processes, of which the last does not reach the end.

``python -m tests.training.faulty FAULT ARGUMENTS`` under torchrun, or ``run_faulty`` as what a pod's processes do.
"""

import os
import signal
import sys
import time
from typing import Any

from everest.cli import main
from everest.errors import EverestError
from orchestration.pod.torchrun import run_everest

LINE = "the disk of this process is full"
LOST = "nobody hears of this process any more"
STEP = 2


def _break(fault: str) -> None:
    """Whatever waits for others waits for ever, as under NCCL."""
    import torch.distributed

    from everest.training import check
    from everest.training.step import Step

    forward_backward = Step._forward_backward
    last = os.environ["RANK"] == "1"
    if last and fault == "unfit":
        check._hadamard = lambda order: torch.ones(order, order)  # type: ignore[assignment]

    def breaking(self: Step, batch: Any, keys: tuple[int | str, ...]) -> Any:
        if keys[1] == STEP and last and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if keys[1] == STEP and last and fault == "lost":
            print(LOST, flush=True)
            time.sleep(3600)
        if keys[1] == STEP and last:
            raise EverestError(LINE)
        if keys[1] == STEP and fault == "blocked":
            time.sleep(3600)
        return forward_backward(self, batch, keys)

    Step._forward_backward = breaking  # type: ignore[method-assign]
    torch.distributed.destroy_process_group = lambda *_: time.sleep(3600)


def run_faulty(fault: str, *arguments: str) -> int:
    _break(fault)
    return run_everest(*arguments)


if __name__ == "__main__":
    _break(sys.argv[1])
    main(sys.argv[2:])
