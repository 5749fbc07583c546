"""How every program of this project ends: one line for what its user, a disk or a server has caused, and the exit code.

``exit_code("everest", work)`` is all of a ``main``; ``with doing("reading the study"):`` is around what may fail.
"""

import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import ValidationError

from everest.errors import AgreedError, EverestError

#: What comes from outside. Everything else is a fault of ours, and keeps its traceback.
FROM_OUTSIDE: tuple[type[Exception], ...] = (
    OSError,
    UnicodeError,
    RecursionError,
    MemoryError,
    yaml.YAMLError,
    json.JSONDecodeError,
    ValidationError,
)


def exit_code(name: str, work: Callable[[], None], also: tuple[type[Exception], ...] = (), main: bool = True) -> int:
    """Does ``work``, says what stopped it, and returns 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C.

    ``also`` are a server library's own errors, told in one line as well. What all processes of a run raise alike
    is said by the ``main`` one. A fault of ours is raised.
    """
    print_in_any_locale()
    try:
        work()
        sys.stdout.flush()
    except EverestError as error:
        if main or not isinstance(error, AgreedError):
            print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except FROM_OUTSIDE + also as error:
        if not (isinstance(error, BrokenPipeError) and _nobody_reads()):
            print(f"{name}: {one_line(error)}", file=sys.stderr)
        return EverestError.exit_code
    return 0


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Names what is done, for the line that tells why it failed."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


def one_line(error: BaseException) -> str:
    """What went wrong while doing what: with the path, the setting or the reason that the error names."""
    notes = getattr(error, "__notes__", [])
    return ": ".join([*reversed(notes), _reason(error)])


def naming(video: str | Path, error: Exception) -> str:
    """What went wrong, with the video's name."""
    said = one_line(error)
    return said if str(video) in said else f"{video}: {said}"


def all_done(failed: int, count: int) -> None:
    """Raises EverestError where some of several videos failed, each of which has been said."""
    if failed and count > 1:
        raise EverestError(f"{failed} of {count} videos could not be read")
    if failed:
        sys.exit(EverestError.exit_code)


def print_in_any_locale() -> None:
    """What a terminal cannot show, as a file name in another encoding, is printed as ``\\x…``; nothing fails by it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def printable(name: object) -> str:
    """A file name as text that every encoding of Unicode takes: bytes that are no UTF-8 as ``\\udc…``."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    if isinstance(error, RecursionError):
        return "nested too deeply, or redirected without end"
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([" -> ".join(named), error.strerror] if named else [error.strerror])
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in said):  # from another process, its traceback before it
        said = said[-1:]
    return " ".join(said) or type(error).__name__


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader, as ``head``, has gone; nothing is left then to be flushed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
