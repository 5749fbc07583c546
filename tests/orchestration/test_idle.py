"""GPUs that idle, by what a driver would have said of them: there is none where tests run."""

import random

import pytest

from orchestration.idle import IdleGpus
from orchestration.settings import PlatformSettings

LOOK_S = 10.0


class Told:
    def __init__(self, **settings: object) -> None:
        self.told: list[str] = []
        self.ended: list[str] = []
        self.gpus = IdleGpus(PlatformSettings(**settings), self.told.append, self.ended.append)  # type: ignore[arg-type]

    def see(self, *busy: float) -> str | None:
        """Utilisation of each GPU, in percent."""
        measured = {f"system/gpu_{number}_utilization_percentage": value for number, value in enumerate(busy)}
        return self.gpus.see({**measured, "system/gpu_0_memory_usage_percentage": 0.0}, LOOK_S)


@pytest.mark.parametrize("seed", range(5))
def test_they_idle_while_the_mean_of_the_busiest_over_the_last_while_is_under_the_bound(seed: int) -> None:
    dice, found, looks = random.Random(seed), Told(idle_percent=30, idle_s=95), []
    idle, changes = False, 0
    for _ in range(300):
        looks.append([dice.choice([0, 0, 20, 90]), dice.choice([0, 10])])
        last = [max(each) for each in looks[-10:]]  # of which ten are the first that are 95 s or more
        now = len(last) == 10 and sum(last) / 10 < 30
        said = found.see(*looks[-1])
        assert (said is not None) == (now != idle)
        assert not said or f"idled: {sum(last) / 10:.1f} % busy over 1m" in said
        changes += now != idle
        idle = now
    assert changes > 3
    assert len(found.told) == (changes + 1) // 2


def test_by_default_a_job_is_told_of_after_an_hour_once_and_never_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVEREST_NODE", "node-3")
    found = Told()
    said = [found.see(0, 4) for _ in range(1000)]
    assert [number for number, each in enumerate(said) if each is not None] == [359]
    assert found.told == [said[359]] == ["the 2 GPUs of node-3 idled: 4.0 % busy over 1h00m"]
    assert not found.ended


def test_a_job_is_ended_where_a_setting_says_so() -> None:
    found = Told(idle_end=True, idle_s=20)
    for _ in range(5):
        found.see(1)
    (line,) = found.ended
    assert line.endswith("idled: 1.0 % busy over 20s; the job is ended (EVEREST_IDLE_END)")


@pytest.mark.parametrize(("settings", "busy"), [({"idle_percent": 0}, [0.0]), ({}, []), ({}, [5.0])])
def test_nothing_is_said_where_nobody_asks_nothing_is_known_or_they_work(
    settings: dict[str, object], busy: list[float]
) -> None:
    found = Told(idle_s=20, idle_end=True, **settings)
    assert {found.see(*busy) for _ in range(100)} == {None}
    assert not found.told
    assert not found.ended
