"""Who is told by a webhook: what it gets, and that whatever it does holds nobody up and tells nobody its address."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict

import pytest

from everest.errors import UsageError
from orchestration.doctor import Finding, Verdict, examine_news
from orchestration.notifier import Notifier
from orchestration.settings import PlatformSettings
from orchestration.webhook import WEBHOOK, News, Webhook
from tests.services import free_port, until
from tests.webhook import SECRET, WebhookServer

NEWS = News(
    "finished", "mine", "ada", "finished: a < b & c", {"test/top1": 61.5}, "http://mlflow/#/experiments/1/runs/2"
)


def test_a_webhook_is_told_all_of_it_as_json() -> None:
    with WebhookServer() as server:
        Webhook(server.address).post(NEWS)
    (told,) = server.told
    assert told.pop("text") == f"mine (ada): finished: a < b & c {NEWS.link}"
    assert told == json.loads(json.dumps(asdict(NEWS)))


@pytest.mark.parametrize("host", ["hooks.slack.com", "hooks.slack-gov.com", ""])
def test_slack_and_what_is_marked_as_such_gets_a_text_in_slacks_notation(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://docs.slack.dev/messaging/formatting-message-text: ``&``, ``<`` and ``>`` are written as entities."""
    with WebhookServer() as server:
        monkeypatch.setenv("HTTP_PROXY", server.address.partition("/services")[0])  # it is asked in the host's place
        monkeypatch.setenv("http_proxy", server.address.partition("/services")[0])
        Webhook(f"http://{host}/services/{SECRET}\n" if host else f"{server.address}#slack").post(NEWS)
    assert server.told == [{"text": f"mine (ada): finished: a &lt; b &amp; c <{NEWS.link}|MLflow>"}]


@pytest.mark.parametrize(
    "address", ["hooks.slack.com/x", "ftp://x/y", "https:///x", "https://[x/y", "https://x/y#teams"]
)
def test_what_is_no_address_is_said_without_saying_it(address: str) -> None:
    with pytest.raises(UsageError, match=WEBHOOK) as error:
        Webhook(address)
    assert address not in str(error.value)


def told_by_a_run(address: str, asked: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK, address)
    monkeypatch.setattr("orchestration.notifier._LAST_WORDS_S", 0.2)
    notifier = Notifier()
    notifier.tell(lambda: None)
    notifier.tell(lambda: NEWS)
    until(asked, "the webhook to be asked")
    notifier.close()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([0], "not all news .* are told"),
        ([500], "answers 500"),
        ([404], "does not take the news 'finished': it answers 404"),
        ([302], "does not take the news 'finished': it answers 302"),
    ],
)
def test_a_webhook_that_hangs_or_refuses_ends_no_run_and_its_address_is_not_said(
    answers: list[int], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with WebhookServer(*answers) as server:
        told_by_a_run(server.address, lambda: server.asked, monkeypatch)  # ends, though none may be answered yet
    assert server.told == []
    assert any(re.search(said, message) for message in caplog.messages), caplog.messages
    assert not any(part in caplog.text for part in (SECRET, server.address, "/services"))


def test_a_webhook_that_nobody_answers_at_ends_no_run_and_its_address_is_not_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"http://127.0.0.1:{free_port()}/services/{SECRET}"
    told_by_a_run(address, lambda: "it is not reached" in caplog.text, monkeypatch)
    assert SECRET not in caplog.text


def test_what_a_webhook_does_not_take_at_first_it_is_told_again_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WebhookServer(503, 429, 200) as server:
        monkeypatch.setenv(WEBHOOK, server.address)
        notifier = Notifier()
        for event in ("started", "stalled", "failed"):
            notifier.tell(lambda event=event: News(event, "mine", "ada", event))  # type: ignore[misc]
        until(lambda: len(server.told) == 3, "three news")
        notifier.close()
    assert [told["event"] for told in server.told] == ["started", "stalled", "failed"]


def test_news_that_cannot_be_made_are_said_and_the_next_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with WebhookServer() as server:
        monkeypatch.setenv(WEBHOOK, server.address)
        notifier = Notifier()
        notifier.tell(lambda: News("best", {}["lost"], "ada", ""))
        notifier.tell(lambda: NEWS)
        notifier.close()
    assert [told["event"] for told in server.told] == ["finished"]
    assert "something is not told: 'lost'" in caplog.text


def test_doctor_tells_a_webhook_only_when_asked_to_and_says_what_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(tell: bool, **settings: str) -> Finding:
        return examine_news(PlatformSettings(user="ada", **settings), tell)  # type: ignore[arg-type]

    assert found(tell=True).verdict == Verdict.UNSET, "nobody is named"
    with WebhookServer(200, 404, 503) as server:
        monkeypatch.setenv(WEBHOOK, server.address)
        unasked = found(tell=False)
        assert (unasked.verdict, server.asked) == (Verdict.UNSET, 0)
        assert "everest doctor --tell" in unasked.said
        assert found(tell=True).verdict == Verdict.GOOD
        assert server.told[0]["event"] == "test"
        assert server.told[0]["text"] == "everest doctor (ada): a test message; news of runs arrive here"
        for answer in (404, 503):
            refused = found(tell=True)
            assert refused.verdict == Verdict.BAD
            assert refused.said == f"the webhook ({WEBHOOK}) does not take a test message: it answers {answer}"
    monkeypatch.setenv(WEBHOOK, "nowhere")
    assert found(tell=False).verdict == Verdict.BAD
    monkeypatch.delenv(WEBHOOK)
    monkeypatch.setenv("EVEREST_NOTIFY_SECRET", "slack")
    assert found(tell=False, notify_secret="slack").verdict == Verdict.UNSET, "jobs have it, this machine need not"
    assert found(tell=True, notify_secret="slack").verdict == Verdict.BAD


def test_a_secret_that_lacks_the_address_is_said_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVEREST_NOTIFY_SECRET", "slack")
    notifier = Notifier()
    notifier.tell(lambda: NEWS)
    notifier.close()
    assert "the Secret slack (EVEREST_NOTIFY_SECRET) should have it" in caplog.text
