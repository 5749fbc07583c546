"""The processes of a run: one, or those that torchrun started."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from everest.errors import AgreedError, EverestError, UsageError
from everest.pulse import Pulse, pulse_here

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)  # of what all do together
_LOOK_EVERY_S = 0.05
_CAUSE_FIRST_S = 3  # so that torchrun reports the process that began it
LOST = re.compile(r"(closed|reset) by peer|Broken pipe|[Tt]imed out (waiting|after)")  # gloo's words, and the store's


class PeerLost(EverestError):
    """Another process of the run has ended, or does not come. Starting all of them again may help."""

    exit_code = os.EX_TEMPFAIL


@dataclass(frozen=True)
class Process:
    """This process among all of the run."""

    rank: int
    world: int
    device: torch.device
    store: Store | None = None  # where processes leave notes for each other
    pulse: Pulse = field(default_factory=Pulse, repr=False)
    _waits: Iterator[int] = field(default_factory=count, repr=False)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def largest(self, *values: int) -> list[int]:
        """The largest of all processes' values, one by one. No device is waited for."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        with self.pulse.during("collective"):
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        found: list[int] = tensor.tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """All processes' values, by rank, in every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with self.pulse.during("collective"):
            dist.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """The first process's value, in every process; for as long as it takes the first one to get it."""
        if self.world == 1:
            return value
        self._wait_for([0], f"shared-{next(self._waits)}")
        values = [value]
        with self.pulse.during("collective"):
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def share_tensor(self, tensor: Tensor) -> None:
        """Gives ``tensor`` the first process's values, in place."""
        if self.world > 1:
            with self.pulse.during("collective"):
                dist.broadcast(tensor, src=0)

    def together(self, work: Callable[[], T]) -> T:
        """Does it in every process. An EverestError of one of them is raised in all, as an AgreedError."""
        if self.world == 1:
            return work()
        result, error = None, None
        try:
            result = work()
        except EverestError as raised:
            error = raised
        self._wait_for(range(self.world), f"done-{next(self._waits)}")
        found = self.gather(error and (isinstance(error, UsageError), str(error)))
        for usage, said in filter(None, found):
            raise (UsageError if usage else AgreedError)(said)
        return result  # type: ignore[return-value]

    def leave(self) -> None:
        """Takes the process group down once all have come here."""
        if self.world > 1:
            self._wait_for(range(self.world), "left")
            dist.destroy_process_group()

    def _wait_for(self, ranks: "list[int] | range", what: str) -> None:
        """Until these processes have come here, however long that takes: the first may be waiting for a server."""
        assert self.store
        self.store.set(f"{what}/{self.rank}", "here")
        with self.pulse.during("collective"):
            while not self.store.check([f"{what}/{rank}" for rank in ranks]):
                time.sleep(_LOOK_EVERY_S)


@contextmanager
def processes(device: torch.device) -> Iterator[Process]:
    """Joins the process group that torchrun describes, if any: NCCL between GPUs, gloo between CPUs.

    A process that leaves by an exception leaves the group as it is: to take it down under NCCL would be to wait for
    the others. ``everest.leave`` ends it then. Raises PeerLost where the others do not come or have ended.
    """
    world, pulse = int(os.environ.get("WORLD_SIZE", "1")), pulse_here()
    if world == 1:
        yield Process(0, 1, device, pulse=pulse)
        return
    try:
        process = _join(device, pulse)
        yield process
        process.leave()
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        time.sleep(_CAUSE_FIRST_S)
        raise PeerLost(
            f"another process of the run has ended, or did not come within {TIMEOUT.seconds // 60} minutes; "
            "what ended it is said there"
        ) from None


def _join(device: torch.device, pulse: Pulse) -> Process:
    store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world,
        timeout=TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    return Process(rank, world, device, PrefixStore("notes", store), pulse)
