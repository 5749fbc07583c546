"""Where studies are kept: SQLite or a journal file here, PostgreSQL for a cluster."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from everest.errors import EverestError, UsageError
from everest.files import locked
from orchestration.job import AGAIN
from orchestration.outbox import one_line
from orchestration.settings import PlatformSettings


class DatabaseAway(EverestError):
    """The study cannot be read or written at the moment."""

    exit_code = AGAIN


def open_storage(settings: PlatformSettings) -> BaseStorage:
    """Raises UsageError where there is none."""
    address = settings.study_uri
    if address.startswith("journal:"):
        path = Path(address.removeprefix("journal:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return JournalStorage(JournalFileBackend(str(path)))
        except (ValueError, KeyError, AssertionError) as error:  # what Optuna meets in a file that is none of its own
            raise UsageError(
                f"EVEREST_STUDIES = {address!r} is no journal of studies ({one_line(error)}); name another file"
            ) from None
    if address.startswith("sqlite:"):
        _file_of(address).parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet():
            engine = {"poolclass": NullPool} if address.startswith("postgresql") else {}  # none is held for weeks
            return optuna.storages.get_storage(RDBStorage(address, engine_kwargs=engine))  # behind a cache
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        raise UsageError(f"EVEREST_STUDIES = {address!r}: {one_line(error)}") from None


@contextmanager
def database(settings: PlatformSettings) -> Iterator[None]:
    """Raises DatabaseAway where the database does not answer in between."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = one_line(error.__cause__ or error)
        raise DatabaseAway(
            f"EVEREST_STUDIES = {settings.study_uri!r} does not answer ({cause}); "
            f"jobs go on, and so does the sweep when it is launched again"
        ) from None


@contextmanager
def only_controller(settings: PlatformSettings, study: str) -> Iterator[None]:
    """Holds the study for one controller; where it dies, it lets go. Raises EverestError while another has it."""
    held = EverestError(f"another controller is running {study}; everest-sweep stop {study} ends it")
    address = settings.study_uri
    if address.startswith("postgresql"):
        engine = create_engine(address, poolclass=NullPool)
        key = int.from_bytes(sha256(f"everest-sweep {study}".encode()).digest()[:8], signed=True)
        with engine.connect() as connection:
            if not connection.execute(text("select pg_try_advisory_lock(:key)"), {"key": key}).scalar():
                raise held
            connection.commit()  # the lock is the session's
            yield
        return
    with locked(_file_of(address).parent / f".{study}.lock", wait=False) as ours:
        if not ours:
            raise held
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's notices about what it calls experimental are not for the people who use this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _file_of(address: str) -> Path:
    named = address.removeprefix("journal:") if address.startswith("journal:") else make_url(address).database
    return Path(named or "").resolve()
