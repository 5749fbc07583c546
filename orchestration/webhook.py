"""A webhook that is told news: Slack's, which takes a text, or one that takes all of it as JSON.

Its address lets whoever has it speak there: it is said nowhere, not even in errors.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import urldefrag, urlsplit

from pydantic_settings import BaseSettings, SettingsConfigDict

from everest.errors import EverestError, UsageError
from orchestration.job import Unreachable

WEBHOOK = "EVEREST_WEBHOOK"  # the Secret's key, and in this machine's environment

_SLACK = {"hooks.slack.com", "hooks.slack-gov.com"}
_PATIENCE_S = (3.0, 5.0)  # to be reached, to answer
_MAY_PASS = {408, 425, 429}

Event = Literal["started", "finished", "failed", "stalled", "idle", "best", "test"]


@dataclass(frozen=True)
class News:
    """Of a job or a sweep."""

    event: Event
    run: str
    user: str
    what: str  # a line
    numbers: Mapping[str, float] = field(default_factory=dict)
    link: str = ""  # to a page of it


class _Named(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EVEREST_", env_file=".env", extra="ignore", frozen=True)

    webhook: str = ""
    notify_secret: str = ""


class Refused(EverestError):
    """What answers does not want it, and will not later."""


class Webhook:
    """``https://hooks.slack.com/…`` is Slack's; another that takes the same ends with ``#slack``, as Mattermost's."""

    def __init__(self, address: str) -> None:
        """Raises UsageError."""
        self._address, kind = urldefrag(address.strip())
        try:
            parts = urlsplit(self._address)
            host = parts.hostname
        except ValueError:
            host = None
        if not host or parts.scheme not in {"http", "https"} or kind not in {"", "slack", "json"}:
            raise UsageError(f"{WEBHOOK} must be https://…, with #slack or #json behind it or neither; it is not shown")
        self._slack = kind == "slack" or (not kind and host in _SLACK)

    @classmethod
    def here(cls) -> "Webhook | None":
        """The one that the environment or ``.env`` names. Raises UsageError."""
        named = _Named()
        if not named.webhook and named.notify_secret:
            raise UsageError(
                f"{WEBHOOK} is not set; the Secret {named.notify_secret} (EVEREST_NOTIFY_SECRET) should have it"
            )
        return cls(named.webhook) if named.webhook else None

    def post(self, news: News) -> None:
        """Raises Unreachable for what may pass, else Refused."""
        import requests

        try:
            answer = requests.post(
                self._address, json=self._body(news), timeout=_PATIENCE_S, allow_redirects=False, stream=True
            )
            answer.close()
        except requests.exceptions.SSLError:
            raise Refused("its certificate is not one that is trusted here") from None
        except requests.exceptions.Timeout:
            raise Unreachable(f"no answer in {sum(_PATIENCE_S):.0f} s") from None
        except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError):
            raise Unreachable("it is not reached") from None
        except (requests.exceptions.RequestException, ValueError) as error:  # these say the address
            raise Refused(type(error).__name__) from None
        if answer.status_code >= 500 or answer.status_code in _MAY_PASS:
            raise Unreachable(f"it answers {answer.status_code}")
        if answer.status_code >= 300:
            raise Refused(f"it answers {answer.status_code}")

    def _body(self, news: News) -> dict[str, Any]:
        if self._slack:
            return {"text": _slack_text(news)}
        return {**asdict(news), "numbers": dict(news.numbers), "text": text_of(news)}


def text_of(news: News) -> str:
    """A line for a person."""
    return f"{_said(news)} {news.link}" if news.link else _said(news)


def _said(news: News) -> str:
    return f"{news.run} ({news.user}): {news.what}"


def _slack_text(news: News) -> str:
    """Slack takes ``&``, ``<`` and ``>`` for marks."""
    said = _said(news).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{said} <{news.link}|MLflow>" if news.link else said
