"""Errors meant for the person at the terminal: one line, no traceback."""


class EverestError(Exception):
    """Something the user can put right. The message is one line: what, its value, what to do."""

    exit_code = 1


class UsageError(EverestError):
    """A setting, flag or argument that cannot be accepted; nothing has been started."""

    exit_code = 2
