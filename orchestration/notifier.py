"""News on their way to a webhook, in a thread of their own: nothing waits for them, and nothing fails by them."""

import logging
from collections.abc import Callable

from everest.errors import EverestError, UsageError
from orchestration.job import Unreachable
from orchestration.outbox import Outbox, one_line
from orchestration.webhook import WEBHOOK, News, Webhook

log = logging.getLogger(__name__)

_LAST_WORDS_S = 5.0

Make = Callable[[], News | None]  # None: there is nothing to tell


class Notifier:
    """Tells the environment's webhook; without one, or with one that is none, which is said, nobody.

    One that is away is tried again, until ``close``.
    """

    def __init__(self) -> None:
        self._outbox: Outbox | None = None
        self._webhook: Webhook | None = None
        try:
            self._webhook = Webhook.here()
        except UsageError as error:
            log.warning("nobody is told of this: %s", error)
        if self._webhook:
            self._outbox = Outbox(f"the webhook ({WEBHOOK})", lambda error: isinstance(error, Unreachable))

    def tell(self, make: Make) -> None:
        """``make`` is called in the notifier's thread."""
        if self._webhook and self._outbox:
            self._outbox.add(_Letter(make, self._webhook))

    def close(self) -> None:
        """Within seconds; what is not told by then is said to be not."""
        if not self._outbox:
            return
        try:
            self._outbox.flush(_LAST_WORDS_S)
        except EverestError as error:
            log.warning("not all news of this run are told: %s", error)
        self._outbox.close(seconds=0)


class _Letter:
    """Written once, however often it is sent."""

    def __init__(self, make: Make, webhook: Webhook) -> None:
        self._make, self._webhook = make, webhook
        self._made: list[News | None] = []

    def __call__(self) -> None:
        """Raises Unreachable."""
        if not self._made:
            self._made.append(self._written())
        if news := self._made[0]:
            try:
                self._webhook.post(news)
            except Unreachable:
                raise
            except EverestError as error:
                log.warning("the webhook (%s) does not take the news %r: %s", WEBHOOK, news.event, error)

    def _written(self) -> News | None:
        try:
            return self._make()
        except Exception as error:  # whatever is wrong with it, the run goes on
            log.warning("something is not told: %s", one_line(error))
            return None
