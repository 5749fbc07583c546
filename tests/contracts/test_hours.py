"""What runs took of GPUs, noted by pods in a real S3 server, is counted to the second, and outlives them."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from orchestration.cli import main
from orchestration.hours import FOLDER, Stay, stays_of, sums
from orchestration.pod.meter import Meter
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from tests.services import s3_settings, until

pytestmark = pytest.mark.filterwarnings("ignore")  # boto3 warns of itself
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    found = s3_settings(monkeypatch)
    for name, value in found.environment().items():
        monkeypatch.setenv(name, value)
    return found


def stay(run: str = "run", user: str = "ada", began: float = 0, hours: float = 1, **more: object) -> Stay:
    at = NOON + timedelta(hours=began)
    given = dict(experiment="clips/pretrain", sweep="", pod=0, node="n", gpus=8, price=2.5) | more
    return Stay(run=run, user=user, began=at, until=at + timedelta(hours=hours), **given)  # type: ignore[arg-type]


def test_hours_and_money_are_those_of_every_minute_that_a_pod_had_its_gpus() -> None:
    stays = [
        stay(hours=2),
        stay(began=2.1, hours=0.05),
        stay(pod=1, hours=2, gpus=4),
        stay("b", "bob", 1, 3, price=None),
    ]
    for since in (None, NOON + timedelta(hours=1.5)):
        minutes = {"ada": 0, "bob": 0}
        for minute in range(6 * 60):
            at = NOON + timedelta(minutes=minute)
            for each in stays:
                if each.began <= at < each.until and (since is None or at >= since):
                    minutes[each.user] += each.gpus
        found = sums(stays, lambda stay: stay.user, price=None, since=since)
        for user, count in minutes.items():
            assert math.isclose(found[user].gpu_hours, count / 60, abs_tol=1e-9)
        assert found["ada"].money == pytest.approx(2.5 * minutes["ada"] / 60)
        assert found["bob"].money is None, "nobody knows what it cost"
    assert sums(stays, lambda stay: stay.user, price=1.0)["bob"].money == pytest.approx(24)
    assert (found["ada"].starts, found["ada"].runs) == (3, {"run"})


def test_costs_shows_whose_they_are(settings: PlatformSettings, capsys: pytest.CaptureFixture[str]) -> None:
    store = S3Store(settings, FOLDER)
    noted = [stay(), stay(began=2), stay("s-1", "bob", sweep="s", hours=0.5), stay("s-2", "bob", sweep="s", hours=0.5)]
    for each in noted:
        store.write(each.key, each.model_dump_json().encode())
    store.close()
    assert sorted(stays_of(settings), key=lambda stay: stay.key) == sorted(noted, key=lambda stay: stay.key)
    assert stays_of(settings, {"s-1"}) == noted[2:3]
    for by, lines in {
        "user": ["USER RUNS STARTS GPU HOURS COST", "ada 1 2 16.00 40.00", "bob 2 2 8.00 20.00", "all 3 4 24.00 60.00"],
        "sweep": ["SWEEP RUNS STARTS GPU HOURS COST", "- 1 2 16.00 40.00", "s 2 2 8.00 20.00", "all 3 4 24.00 60.00"],
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["costs", "--by", by])
        assert ended.value.code == 0
        assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == lines


def test_a_pod_notes_itself_while_it_is_there_and_once_more_at_its_end(settings: PlatformSettings) -> None:
    began = datetime.now(UTC) - timedelta(minutes=5)
    meter = Meter(S3Store(settings, FOLDER), stay().model_copy(update={"began": began}), every_s=0.05)

    def minutes() -> float:
        found = stays_of(settings)
        return sum(each.gpu_hours() for each in found) * 60 / 8

    until(lambda: minutes() >= 5, "the first note")
    first = minutes()
    until(lambda: minutes() > first, "another")
    meter.close()
    assert minutes() == pytest.approx((datetime.now(UTC) - began).total_seconds() / 60, abs=0.5)
    assert len(stays_of(settings)) == 1
