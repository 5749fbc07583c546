"""What a pod says is in a real S3 server within seconds, in order, whatever becomes of the pod or the server."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from everest.errors import UsageError
from orchestration.hours import FOLDER as hours_folder
from orchestration.hours import Stay, stays_of
from orchestration.job import RUN_POINTER, LogsMissing
from orchestration.kept_log import kept_log
from orchestration.log import EVERYTHING, START, Line, Wanted, stamp
from orchestration.pod import keeper
from orchestration.pod.backlog import Backlog
from orchestration.pod.keeper import Keeper
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from tests.s3_proxy import DENIED, S3Proxy
from tests.services import HANGS_S, s3_settings, until

LINES = 200_000
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture
def settings(proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    monkeypatch.setattr(keeper, "EVERY_S", 0.2)
    return s3_settings(monkeypatch, proxy.address)


class Pod:
    """Says lines at times of its own, and keeps them."""

    def __init__(self, settings: PlatformSettings, number: int = 0, most: int = 2**26) -> None:
        self.backlog = Backlog(most)
        self.number, self.second = number, 0.0
        self.keeper = Keeper(self.backlog, S3Store(settings, "run"), number)

    def start(self, second: float) -> None:
        self.second = second
        self._say(f"{START}run-worker-{self.number} on node{self.number}")

    def say(self, *texts: str, rank: int = 0) -> None:
        self._say(*(f"[rank {rank}] {text}" for text in texts))

    def _say(self, *texts: str) -> None:
        first = self.second + 0.001
        self.backlog.add([f"{at(first + 1e-6 * place)} {text}\n".encode() for place, text in enumerate(texts)])
        self.second = first + 1e-6 * len(texts)

    def end(self) -> None:
        assert self.keeper.close(60) == 0


def at(second: float) -> str:
    return stamp(NOON + timedelta(seconds=second))


def log(settings: PlatformSettings, wanted: Wanted = EVERYTHING, live: Iterable[Line] = ()) -> list[str]:
    return list(kept_log(settings, "run").whole(wanted, live))


def test_what_pods_said_is_read_in_order_start_by_start_and_by_rank(settings: PlatformSettings) -> None:
    first, second = Pod(settings), Pod(settings, 1)
    first.start(0), second.start(1)
    first.say("one", rank=0)
    second.say("two", rank=2)
    first.second = 10
    first.say("three", rank=1)
    first.start(100), second.start(101)
    second.say("four", rank=3)
    first.second = 102
    first.say("five")
    first.end(), second.end()
    replaced = Pod(settings)
    replaced.start(200)
    replaced.say("six")
    replaced.end()

    begun = "--- start {}: run-worker-{} on node{}"
    assert log(settings) == [
        begun.format(1, 0, 0), "[rank 0] one", begun.format(1, 1, 1), "[rank 2] two", "[rank 1] three",
        begun.format(2, 0, 0), begun.format(2, 1, 1), "[rank 3] four", "[rank 0] five",
        begun.format(3, 0, 0), "[rank 0] six",
    ]  # fmt: skip
    assert log(settings, Wanted(rank=0)) == ["[rank 0] one", "[rank 0] five", "[rank 0] six"]
    assert log(settings, Wanted(start=2, rank=3)) == ["[rank 3] four"]
    assert log(settings, Wanted(since=at(101.5))) == ["[rank 0] five", begun.format(3, 0, 0), "[rank 0] six"]
    with pytest.raises(UsageError, match="--restart 4: run has the starts 1 to 3"):
        log(settings, Wanted(start=4))


def test_what_a_pod_says_now_and_has_not_kept_yet_is_shown_once(settings: PlatformSettings) -> None:
    pod = Pod(settings)
    pod.start(0)
    pod.say("kept", "kept too")
    pod.end()
    shown = [f"{at(0.001)} {START}x", f"{at(0.002001)} [rank 0] kept", f"{at(0.002002)} [rank 0] kept too",
             f"{at(4)} [rank 0] new", f"{at(5)} {START}x", f"{at(6)} [rank 0] newer"]  # fmt: skip
    live = [Line.parse(raw, 0) for raw in shown]
    expected = ["--- start 1: run-worker-0 on node0", "[rank 0] kept", "[rank 0] kept too", "[rank 0] new",
                "--- start 2: x", "[rank 0] newer"]  # fmt: skip
    assert log(settings, live=live) == expected
    assert list(kept_log(settings, "run").followed(EVERYTHING, live)) == expected
    assert log(settings, Wanted(start=2), live) == expected[4:]
    assert log(settings, Wanted(rank=0), live[3:]) == [text for text in expected if text.startswith("[rank 0]")]


def test_who_follows_a_pod_hears_what_it_kept_last_though_it_is_gone(settings: PlatformSettings) -> None:
    pod = Pod(settings)
    pod.start(0)
    pod.say("first")
    until(lambda: "[rank 0] first" in log(settings), "the first line")

    def said() -> Iterator[Line]:
        yield Line(at(1), 0, 0, "[rank 0] second")
        pod.second = 0.999
        pod.say("second", "third")
        pod.end()
        yield from gone()

    def gone() -> Iterator[Line]:
        raise LogsMissing("there is no pod")
        yield

    followed = kept_log(settings, "run").followed(Wanted(rank=0), said(), lambda heard: heard == {0})
    assert list(followed) == ["[rank 0] first", "[rank 0] second", "[rank 0] third"]
    with pytest.raises(LogsMissing):
        list(kept_log(settings, "run").followed(Wanted(rank=0), gone(), lambda heard: heard == {0, 1}))


def test_lines_are_there_in_seconds_and_all_200_000_at_the_end(settings: PlatformSettings) -> None:
    pod = Pod(settings)
    pod.start(0)
    pod.say("soon")
    until(lambda: "[rank 0] soon" in log(settings), "the first lines")
    pod.say(*map(str, range(LINES)), rank=5)
    pod.end()
    assert log(settings, Wanted(rank=5)) == [f"[rank 5] {number}" for number in range(LINES)]
    store = S3Store(settings, "run")
    assert 4 < len(store.list("logs/")) < 40
    store.close()


@pytest.mark.parametrize("refused", [False, True])
def test_an_outage_costs_the_oldest_lines_that_wait_and_says_how_many(
    proxy: S3Proxy, settings: PlatformSettings, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pod = Pod(settings, most=20_000)
    pod.start(0)
    pod.say("before")
    until(lambda: "[rank 0] before" in log(settings), "the first lines")
    proxy.refused["PutObject"] = DENIED
    if not refused:
        proxy.away.set()
    pod.say("first")
    until(lambda: not pod.backlog, "the first lines of the outage to be on their way")
    until(lambda: "does not take the log; going on, and trying again" in caplog.text, "the outage to be noticed")
    said = [f"during {number}" for number in range(1000)]
    pod.say(*said)
    proxy.away.clear(), proxy.refused.clear()
    pod.say("after")
    pod.end()
    _, before, first, notice, *left = log(settings)
    assert (before, first, left[-1]) == ("[rank 0] before", "[rank 0] first", "[rank 0] after")
    lost = int(re.fullmatch(r"\[rank 0\] WARNING (\d+) lines are lost here: .*", notice)[1])  # type: ignore[index]
    assert 0 < lost < 1000
    assert left[:-1] == [f"[rank 0] {text}" for text in said[lost:]]


def test_where_s3_stays_away_the_end_waits_for_seconds_alone_and_what_is_lost_is_counted(
    proxy: S3Proxy, settings: PlatformSettings
) -> None:
    proxy.away.set()
    pod = Pod(settings)
    pod.start(0)
    pod.say(*map(str, range(99)))
    assert pod.keeper.close(1) == 100


def test_a_piece_that_is_damaged_costs_its_own_lines_alone(
    settings: PlatformSettings, caplog: pytest.LogCaptureFixture
) -> None:
    pod = Pod(settings)
    pod.start(0)
    pod.say("one", rank=1)
    pod.say("two", rank=2)
    pod.end()
    store = S3Store(settings, "run")
    damaged = next(key for key in store.list("logs/") if "rank-00001" in key)
    store.write(damaged, store.content(damaged)[:-9])
    store.write("logs/anything", b"else")
    store.close()
    assert log(settings)[1:] == ["[rank 2] two"]
    assert f"{damaged} cannot be read and is passed over" in caplog.text


def test_without_s3_what_is_live_is_shown_and_what_is_not_is_said(
    proxy: S3Proxy, settings: PlatformSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.kept_log._PATIENCE_S", 1)
    proxy.away.set()
    assert log(settings, live=[Line(at(0), 0, 0, "[rank 0] here")]) == ["[rank 0] here"]
    assert "what pods that are gone have said is not shown: " in caplog.text


@pytest.mark.filterwarnings("ignore")  # MLflow warns of itself
def test_mlflow_has_the_log_as_artifacts_a_file_a_start(settings: PlatformSettings, tmp_path: Path) -> None:
    import mlflow

    from orchestration.tracking.logs import log_to_mlflow

    settings = settings.model_copy(update={"mlflow_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"})
    client = mlflow.MlflowClient(settings.tracking_uri)
    log_to_mlflow(settings, "run")
    run = client.create_run(client.create_experiment("runs", tmp_path.as_uri())).info.run_id
    store = S3Store(settings, "run")
    store.point(RUN_POINTER, json.dumps({"run": run, "experiment": "1"}))
    store.close()
    had = Stay(run="run", user="", experiment="", sweep="", pod=0, node="", gpus=8, price=2, began=at(0), until=at(900))  # type: ignore[arg-type]
    hours = S3Store(settings, hours_folder)
    hours.write(had.key, had.model_dump_json().encode())
    hours.close()
    for number in (1, 2):
        pod = Pod(settings)
        pod.start(100 * number)
        pod.say(f"said {number}", rank=3)
        pod.end()
        log_to_mlflow(settings, "run")
        assert [item.path for item in client.list_artifacts(run, "logs")] == [
            f"logs/start-00{start}.log" for start in range(1, number + 1)
        ]
    assert client.get_run(run).data.metrics == {"cost/gpu_hours": 2, "cost/starts": 1, "cost/money": 4}
    for number in (1, 2):
        written = Path(client.download_artifacts(run, f"logs/start-00{number}.log")).read_text()
        first, second = at(100 * number + 0.001), at(100 * number + 0.002001)
        assert written == (f"{first} --- start {number}: run-worker-0 on node0\n{second} [rank 3] said {number}\n")


_POD = """
import logging, os, sys
from orchestration.pod import keeper, worker
from orchestration.job import AGAIN
keeper.EVERY_S = 0.2
worker.EXPERIMENT_FILE = sys.argv[1]
starts = iter((AGAIN, int(sys.argv[2])))
def run(*_, **__):
    code = next(starts)
    print("[rank 0] the key is", os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["PLANTED"], flush=True)
    if code == -9:
        import time
        print("[rank 0] about to go", flush=True)
        time.sleep(600)
    return code
worker.torchrun = run
worker.main()
"""


@pytest.mark.parametrize(("code", "ended"), [(0, 0), (-9, 143)])
def test_a_pods_log_outlives_it_and_holds_no_secret(
    settings: PlatformSettings, tmp_path: Path, code: int, ended: int
) -> None:
    """A worker that starts twice, and then succeeds or is ended as Kubernetes does it."""
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text("name: run\n")
    environment = {**os.environ, **settings.environment(), "PLANTED": "not/for+anyone=", "EVEREST_POD": "run-worker-0",
                   "EVEREST_NODE": "node0", "EVEREST_USER": "ada", "EVEREST_GPUS": "4"}  # fmt: skip
    began = time.time()
    with (tmp_path / "out").open("wb") as out:
        pod = subprocess.Popen(
            [sys.executable, "-c", _POD, experiment, str(code)], env=environment, stdout=out, stderr=out
        )
        if ended:
            until(lambda: any("about to go" in line for line in log(settings)), "its last line")
            pod.send_signal(signal.SIGTERM)
        assert pod.wait(HANGS_S) == ended
    (stay,) = stays_of(settings)
    assert (stay.run, stay.user, stay.gpus, stay.node) == ("run", "ada", 4, "node0")
    assert began - 1 <= stay.began.timestamp() < stay.until.timestamp() <= time.time()
    lines = log(settings)
    begun = "--- start {}: run-worker-0 on node0"
    again = "[rank 0] WARNING a process broke down; starting again from the newest checkpoint"
    hidden = "[rank 0] the key is *** ***"
    last = ["[rank 0] about to go"] if ended else []
    expected = [begun.format(1), hidden, again, begun.format(2), hidden, *last]  # fmt: skip
    assert lines == expected
    assert [Line.parse(raw, 0).text.replace(START, "") for raw in (tmp_path / "out").read_text().splitlines()] == [
        re.sub(r"--- start \d: ", "", line) for line in expected
    ]
    store = S3Store(settings, "run")
    whole = b"".join(gzip.decompress(store.content(key)) for key in store.list("logs/"))
    store.close()
    assert b"not/for" not in whole + (tmp_path / "out").read_bytes()
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in whole + (tmp_path / "out").read_bytes()
