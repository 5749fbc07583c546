"""Errors meant for the person at the terminal: one line, no traceback."""


class EverestError(Exception):
    """Something the user can put right. The message is one line: what, its value, what to do."""

    exit_code = 1


class AgreedError(EverestError):
    """Raised by all processes of a run alike, so that the first one's message is enough."""


class Superseded(EverestError):
    """Another process has taken this run over; this one must not write any more."""


class Unfit(EverestError):
    """This machine cannot be trained on: it has failed a check."""

    exit_code = 71  # os.EX_OSERR


class UsageError(AgreedError):
    """A setting, flag or argument that cannot be accepted; nothing has been started."""

    exit_code = 2
