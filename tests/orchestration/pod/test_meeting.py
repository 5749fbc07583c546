"""Pods of an elastic job find each other over S3, whichever is lost: real processes, at addresses of their own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestration.pod.meeting import MEETING
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from tests.services import s3_settings, until

WAIT_S = 120


@dataclass
class Pod:
    number: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def rounds(self) -> list[tuple[str, int, int]]:
        """Each with this pod's rank and how many pods there are."""
        found = (re.fullmatch(r"round (\S+) rank (\d+) of (\d+)", line) for line in self.lines)
        return [(match[1], int(match[2]), int(match[3])) for match in found if match]

    def end(self, signum: int = signal.SIGKILL) -> None:
        self.process.send_signal(signum)


Start = Callable[..., Pod]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    return s3_settings(monkeypatch)


@pytest.fixture
def start(settings: PlatformSettings, tmp_path: Path) -> Iterator[Start]:
    started: list[Pod] = []

    def start_pod(number: int, *sizes: int, stuck: bool = False, submission: str = "s1") -> Pod:
        environment = {
            **os.environ, **settings.environment(), "PET_NODE_RANK": str(number),
            "EVEREST_POD_IP": f"127.0.0.{number + 1}", "EVEREST_SUBMISSION": submission, "EVEREST_GRACE_S": "30",
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.orchestration.pod.elastic_pod", tmp_path, "stuck" if stuck else "-"]
        log = tmp_path / f"pod-{len(started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*map(str, command), *map(str, sizes)], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        started.append(Pod(number, process, log))
        return started[-1]

    yield start_pod
    for pod in started:
        pod.process.kill()
        pod.process.wait()


def works(team: list[Pod], others: tuple[Pod, ...] = (), after: str = "") -> str:
    """The round that these work in together, and nobody else; not the one ``after``."""

    def together() -> str:
        last = [pod.rounds[-1] for pod in team if pod.rounds]
        same = len(last) == len(team) and len({name for name, _, _ in last}) == 1 and last[0][0] != after
        return last[0][0] if same and sorted(rank for _, rank, _ in last) == list(range(len(team))) else ""

    try:
        name = until(together, f"a round of {[pod.number for pod in team]}", WAIT_S, 0.1)
    except AssertionError as error:
        raise AssertionError(
            "\n".join([str(error), *(line for pod in (*team, *others) for line in pod.lines)])
        ) from None
    assert all(pod.rounds[-1][2] == len(team) for pod in team)
    assert not any(name == round_ for pod in others for round_, _, _ in pod.rounds)
    return str(name)


def host_of(settings: PlatformSettings) -> int:
    """The number of the pod that they meet at."""
    store = S3Store(settings, "run")
    place = json.loads(store.read(MEETING) or "{}")
    store.close()
    return int(place["address"].rpartition(".")[2]) - 1


def test_a_pod_is_gone_on_without_and_taken_up_again_though_they_met_at_it(
    start: Start, settings: PlatformSettings
) -> None:
    pods = {number: start(number, 2, 3) for number in range(3)}
    first = works([*pods.values()])
    lost = host_of(settings)
    pods.pop(lost).end()
    second = works([pods[number] for number in sorted(pods)], after=first)
    pods[lost] = start(lost, 2, 3)
    works([pods[number] for number in sorted(pods)], after=second)
    assert [pod.rounds[-1][1] for _, pod in sorted(pods.items())] == [0, 1, 2]


def test_a_pod_too_many_for_the_work_to_divide_stands_by(start: Start, tmp_path: Path) -> None:
    pods = [start(0, 1, 2), start(1, 1, 2)]
    works(pods)
    spare = start(2, 1, 2)
    until(lambda: "came" in spare.lines, "the third", WAIT_S)
    pods[0].end()
    works([pods[1], spare])
    (tmp_path / "finish").touch()
    for pod in (pods[1], spare):
        assert pod.process.wait(WAIT_S) == 0, pod.lines
    assert len(spare.rounds) == 1


def test_one_that_does_not_notice_that_its_peer_is_lost_is_brought_back(start: Start) -> None:
    """As where a node loses its power: nothing closes the connections of its pods."""
    pods = [start(number, 1, 2, stuck=True) for number in range(2)]
    first = works(pods)
    pods[1].end(signal.SIGSTOP)
    second = works([pods[0]], after=first)
    pods[1].end(signal.SIGCONT)
    works(pods, after=second)


def test_too_few_wait_and_say_so(start: Start) -> None:
    pods = [start(number, 2) for number in range(2)]
    first = works(pods)
    pods[1].end()
    said = "[pod 0] WARNING waits for pods: 1 here, at least 2 are needed (EVEREST_NODES)"
    until(lambda: said in pods[0].lines, "its line", WAIT_S)
    assert len(pods[0].rounds) == 1
    works([pods[0], start(1, 2)], after=first)


def test_a_pod_that_is_asked_to_end_ends_and_the_others_go_on(start: Start) -> None:
    pods = [start(number, 1, 2) for number in range(2)]
    first = works(pods)
    pods[0].end(signal.SIGTERM)
    assert pods[0].process.wait(WAIT_S) == 143, pods[0].lines
    works([pods[1]], after=first)


def test_another_job_of_the_run_is_not_met_but_takes_its_place(start: Start) -> None:
    old = [start(number, 1, 2) for number in range(2)]
    works(old)
    new = [start(number, 1, 2, submission="s2") for number in range(2, 4)]
    works(new)
    old[1].end()
    assert old[0].process.wait(WAIT_S) == 1, old[0].lines
    assert any("another job continues the run in s3://" in line for line in old[0].lines)
