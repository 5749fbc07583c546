"""How many cores this process may use, and how many processes of its run share them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def local_processes() -> int:
    """Those of a run on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def usable_cores() -> int:
    """Those that the affinity allows, and no more than the quota of a control group is worth; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, round(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the control groups of this process grant, of version 1 or 2; None: no limit."""
    groups = root / "proc/self/cgroup"
    lines = groups.read_text(errors="surrogateescape").splitlines() if groups.exists() else []
    granted = [
        quota
        for line in lines
        for folder in _folders(root / "sys/fs/cgroup", *line.split(":", 2)[1:])
        if (quota := _quota(folder)) is not None
    ]
    return min(granted, default=None)


def _folders(mounted: Path, controllers: str, group: str) -> Iterator[Path]:
    """Those of a group and of the groups around it, which limit it too.

    A container may know the group by its name outside, and find its files at the top.
    """
    if controllers and "cpu" not in controllers.split(","):
        return
    for name in {controllers, "cpu"} if controllers else {""}:
        inner = Path(group.lstrip("/"))
        yield from (mounted / name / part for part in (inner, *inner.parents))


def _quota(folder: Path) -> float | None:
    """Microseconds of CPU time a period; ``max`` (version 2) or -1 (version 1) is no limit."""
    with suppress(OSError, ValueError):
        if (file := folder / "cpu.max").exists():
            quota, period = map(float, file.read_text().split())
        else:
            quota, period = (float((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if quota > 0 and period > 0:
            return quota / period
    return None
