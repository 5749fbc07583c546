"""What this machine is called, where people are told of it."""

import os


def node() -> str:
    """As who starts the processes says in ``EVEREST_NODE``, or as it calls itself."""
    return os.environ.get("EVEREST_NODE") or os.uname().nodename
