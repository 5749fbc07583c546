"""Who stands still, by settings as they come and a clock that a test turns."""

from dataclasses import dataclass, field

import pytest

from everest.pulse import Beat, Phase
from orchestration.pod.standstill import Bounds, Judge, Stall
from orchestration.settings import PlatformSettings

MINUTE = 60.0


@dataclass
class Pod:
    """Of so many processes, looked at every second."""

    processes: int
    settings: PlatformSettings = field(default_factory=PlatformSettings)

    def __post_init__(self) -> None:
        self.judge = Judge(Bounds.of(self.settings), "node-7")
        self.beats = {rank: Beat(100 + rank, 1, 0, 0, "starting", 0.0) for rank in range(self.processes)}

    def enter(self, phase: Phase, *ranks: int, patience_s: float = 0.0) -> None:
        for rank in ranks or range(self.processes):
            beat = self.beats[rank]
            self.beats[rank] = beat._replace(notes=beat.notes + 1, phase=phase, patience_s=patience_s)

    def train(self, steps: int, step_s: float) -> None:
        for _ in range(steps):
            for rank, beat in self.beats.items():
                self.beats[rank] = beat._replace(notes=beat.notes + 1, begun=beat.begun + 1, step=beat.step + 1)
            self.enter("forward")
            assert self.pass_(step_s) is None

    def pass_(self, seconds: float) -> Stall | None:
        while seconds > 0:
            if stall := self.judge.see(self.beats, min(1.0, seconds)):
                return stall
            seconds -= 1.0
        return None


def test_who_does_not_go_on_is_named_and_not_those_that_wait_for_it() -> None:
    pod = Pod(8)
    pod.train(1000, step_s=2)
    pod.enter("collective", 0, 1, 2, 4, 5, 6, 7)
    assert pod.pass_(4.9 * MINUTE) is None
    stall = pod.pass_(0.5 * MINUTE)
    assert stall
    assert (stall.step, stall.ranks) == (1000, (3,))
    assert stall.line.startswith("rank 3 on node-7 stands still: in step 1000, forward, for 30")
    assert stall.line.endswith("where a step takes 2 s; 7 others of the pod wait for it")


@pytest.mark.parametrize("phase", ["validating", "saving", "compiling", "S3", "loading", "finishing"])
def test_what_takes_long_may_take_half_an_hour(phase: Phase) -> None:
    pod = Pod(2)
    pod.train(3, step_s=1)
    pod.enter(phase, 0)
    pod.enter("collective", 1)
    assert pod.pass_(29 * MINUTE) is None
    stall = pod.pass_(2 * MINUTE)
    assert stall
    assert stall.ranks == (0,)


def test_what_is_stopped_for_a_minute_goes_on() -> None:
    pod = Pod(2)
    pod.train(5, step_s=1)
    for _ in range(20):
        pod.enter("collective", 1)
        assert pod.pass_(MINUTE) is None
        pod.train(1, step_s=1)


def test_the_first_step_takes_as_long_as_it_takes_and_a_long_step_is_known_to_be_long() -> None:
    pod = Pod(1)
    assert pod.pass_(29 * MINUTE) is None
    pod.train(1, step_s=29 * MINUTE)  # kernels are made, a file system wakes up
    pod = Pod(1)
    pod.train(5, step_s=2 * MINUTE)
    assert pod.pass_(30 * MINUTE) is None
    assert pod.pass_(20 * MINUTE)


def test_what_waits_for_a_server_by_its_own_account_is_given_that_time_too() -> None:
    pod = Pod(1)
    pod.train(5, step_s=1)
    pod.enter("data", patience_s=15 * MINUTE)
    assert pod.pass_(19.9 * MINUTE) is None
    assert pod.pass_(0.5 * MINUTE)
    patient = Pod(1, PlatformSettings(patience_s=3600))
    patient.enter("S3")
    assert patient.pass_(119 * MINUTE) is None


def test_a_pod_all_of_whose_processes_wait_leaves_it_to_the_others_and_says_so_in_the_end() -> None:
    pod = Pod(2)
    pod.train(5, step_s=1)
    pod.enter("collective")
    assert pod.pass_(59 * MINUTE) is None
    stall = pod.pass_(2 * MINUTE)
    assert stall
    assert stall.ranks == (0, 1)
    assert "all of this pod wait for the processes of another, or for each other" in stall.line


def test_who_has_ended_is_not_waited_for_and_nobody_is_where_that_is_not_wanted() -> None:
    pod = Pod(2)
    pod.train(5, step_s=1)
    pod.enter("S3", 0)
    del pod.beats[1]
    assert pod.pass_(29 * MINUTE) is None
    careless = Pod(1, PlatformSettings(stall_steps=0))
    careless.train(5, step_s=1)
    assert careless.pass_(300 * MINUTE) is None
