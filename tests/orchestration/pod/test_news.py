"""What is told of a job: once, however many pods it has, and with what is known of it."""

import json
import time
from collections.abc import Iterator

import pytest

from orchestration.job import MLFLOW_PAGES, RESULT, RUN_POINTER, SUBMITTED
from orchestration.pod.news import JobNews, KeptFacts, last_line
from orchestration.pod.standstill import Stall
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from orchestration.webhook import WEBHOOK
from tests.services import HANGS_S, free_port, s3_settings
from tests.webhook import WebhookServer

METRICS = {"test/top1": 61.25, "train/loss": 0.5, "perf/straggler": float("nan")}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookServer]:
    with WebhookServer() as server:
        monkeypatch.setenv(WEBHOOK, server.address)
        monkeypatch.setenv(MLFLOW_PAGES, "https://mlflow.example.org/")
        monkeypatch.setenv("EVEREST_NODE", "node-7")
        monkeypatch.setattr("orchestration.notifier._LAST_WORDS_S", HANGS_S)
        yield server


@pytest.fixture
def settings(server: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    """As a pod finds them; with all the time that S3 may need here."""
    monkeypatch.setattr("orchestration.pod.news._PATIENCE_S", int(HANGS_S))
    settings = s3_settings(monkeypatch)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    store = S3Store(settings, "mine")
    store.write(RESULT, json.dumps({"result": {"metrics": METRICS}}).encode())
    store.write(RUN_POINTER, json.dumps({"run": "2", "experiment": "1"}).encode())
    store.close()
    return settings


def of_a_pod() -> JobNews:
    return JobNews("mine", "ada", KeptFacts("mine"))


def test_of_all_pods_of_a_submission_one_tells(
    settings: PlatformSettings, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = Stall(7, (3,), "rank 3 on node-7 stands still")
    for submission in ("first", "second"):
        monkeypatch.setenv("EVEREST_SUBMISSION", submission)
        pods = [of_a_pod() for _ in range(4)]
        for pod in pods:
            pod.stalled(stall)
            pod.ended(0, "")
        for pod in pods:
            pod.close()
    link = "https://mlflow.example.org/#/experiments/1/runs/2"
    assert sorted(told["text"] for told in server.told) == 2 * [
        f"mine (ada): finished: test/top1 61.25, train/loss 0.5 {link}",
    ] + 2 * [f"mine (ada): {stall.line} {link}"]


def test_where_s3_is_away_it_is_told_all_the_same(
    server: WebhookServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVEREST_S3_BUCKET", "everest")
    monkeypatch.setenv("EVEREST_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("orchestration.pod.news._PATIENCE_S", 1)
    news = of_a_pod()
    news.ended(1, "the loss is not finite")
    news.close()
    assert [told["text"] for told in server.told] == ["mine (ada): failed: the loss is not finite"]
    assert "told without all that belongs to them" in caplog.text


@pytest.mark.parametrize(("waited_s", "said"), [(7500, ["runs now, on node-7, after 2h05m of waiting"]), (10, [])])
def test_that_a_job_runs_is_told_where_it_had_to_wait(
    waited_s: int, said: list[str], settings: PlatformSettings, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUBMITTED, str(int(time.time()) - waited_s))
    news = of_a_pod()
    news.began()
    news.close()
    assert [told["what"] for told in server.told] == said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["[rank 1] everest: cut off", "[rank 0] everest: mask.keep_ratio 2: too much", "[rank 1] bye"],
         "mask.keep_ratio 2: too much"),
        (["[rank 0] Traceback …", "[rank 0] ValueError: no"], "ValueError: no"),
        ([], "it said nothing"),
    ],
)  # fmt: skip
def test_why_a_job_failed_is_what_it_said_for_a_person_or_last(lines: list[str], said: str) -> None:
    assert last_line(lines) == said
