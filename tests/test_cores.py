"""Cores as control groups grant them, in trees as machines and containers have them."""

from pathlib import Path

import pytest

from everest import cores
from everest.cores import cpu_quota, usable_cores
from everest.data.workers import worker_count


@pytest.mark.parametrize(
    ("groups", "files", "granted"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2.5),  # a container with a name space of its own
        (
            "0::/kubepods/pod1/x\n",
            {"kubepods/pod1/cpu.max": "400000 100000", "kubepods/pod1/x/cpu.max": "max 100000"},
            4,
        ),
        ("0::/kubepods/pod1/x\n", {"cpu.max": "50000 100000"}, 0.5),  # the name is the machine's
        (
            "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n0::/docker/x\n",
            {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("2:cpu:/docker/x\n", {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "50000"}, 3),
        ("2:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "200000"}, None),
        ("3:cpuset:/\n", {"cpuset/cpu.max": "100000 100000"}, None),
        (None, {}, None),  # no Linux
    ],
)
def test_the_smallest_quota_of_a_group_and_those_around_it_counts(
    tmp_path: Path, groups: str | None, files: dict[str, str], granted: float | None
) -> None:
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert cpu_quota(tmp_path) == granted


@pytest.mark.parametrize(
    ("affinity", "quota", "processes", "usable", "auto"),
    [
        (16, None, 1, 16, 16),
        (16, None, 8, 16, 2),
        (16, 3.6, 1, 4, 4),
        (2, 8.0, 1, 2, 2),
        (4, 0.3, 1, 1, 1),
        (4, None, 8, 4, 1),
    ],
)
def test_auto_workers_are_this_processes_share_of_the_usable_cores(
    affinity: int, quota: float | None, processes: int, usable: int, auto: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(affinity)))
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert (usable_cores(), worker_count("auto")) == (usable, auto)
    assert [worker_count(wanted) for wanted in (0, 1, 99)] == [0, 1, usable]
