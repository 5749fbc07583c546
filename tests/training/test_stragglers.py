"""The slow one among many, by times that a test makes up."""

import logging
import re

import pytest
import torch

from everest.training.pace import Pace
from everest.training.stragglers import Share, Stragglers, slowness
from tests.training.test_pace import ALONE, Clock, batches

USUAL = Share(0.1, 1.0)
NODES = ["node-1", "node-1", "node-2", "node-2"]


@pytest.mark.parametrize(
    ("slow", "how"),
    [(Share(0.1, 2.1), "2.0 times .* by computing"), (Share(1.2, 1.0), "2.0 times .* by waiting for data")],
)
def test_it_is_said_once_with_its_machine_after_minutes(
    slow: Share, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    stragglers = Stragglers(NODES)
    with caplog.at_level(logging.WARNING):
        for _ in range(11):
            stragglers.see([USUAL, USUAL, slow, USUAL], 10)
        assert not caplog.messages
        for _ in range(50):
            stragglers.see([USUAL, USUAL, slow, USUAL], 10)
    (line,) = caplog.messages
    assert line.startswith("rank 2 on node-2 slows down all 4 processes: for 120 s")
    assert re.search(how, line)


def test_now_this_one_and_now_that_one_is_nobodys_fault(caplog: pytest.LogCaptureFixture) -> None:
    stragglers, slow = Stragglers(NODES), Share(0.1, 3.0)
    with caplog.at_level(logging.WARNING):
        for turn in range(200):
            stragglers.see([slow if rank == turn // 5 % 4 else USUAL for rank in range(4)], 10)
        for _ in range(200):
            stragglers.see([USUAL] * 4, 10)
    assert not caplog.messages


def test_slowness_is_against_the_usual_and_with_two_against_the_other() -> None:
    assert slowness([USUAL] * 8) == 1
    assert slowness([Share(0, 1), Share(0, 1), Share(1, 1), Share(0, 1)]) == 2
    assert slowness([Share(0, 1), Share(1, 2)]) == 3


def test_what_a_process_takes_itself_ends_where_it_waits_for_the_others() -> None:
    clock = Clock()
    pace, came = Pace(1, torch.device("cpu"), clock), batches(clock, waits_s=0.5, making_s=0.1)
    for _ in range(3):
        pace.next(came)
        clock.now += 2  # computing
        pace.computed()
        clock.now += 7  # the others
    assert "perf/straggler" not in pace.numbers(ALONE)
    assert pace.shares == [Share(1.5, 6.0)]
