"""What an error says of a record: that it is wrong in itself, or that MLflow will take it another time."""

import logging
import re
from collections.abc import Callable
from typing import Any

import mlflow
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import InvalidUrlException, MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    MALFORMED_REQUEST,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)
from requests.exceptions import RequestException, SSLError, TooManyRedirects

from everest.errors import EverestError, UsageError
from orchestration.outbox import Away, one_line
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

_WRONG = {
    ErrorCode.Name(code)
    for code in (
        BAD_REQUEST,
        INVALID_PARAMETER_VALUE,
        INVALID_STATE,
        MALFORMED_REQUEST,
        RESOURCE_ALREADY_EXISTS,
        RESOURCE_DOES_NOT_EXIST,
    )
}
_BUSY = {ErrorCode.Name(code) for code in (TEMPORARILY_UNAVAILABLE, REQUEST_LIMIT_EXCEEDED, DEADLINE_EXCEEDED)}


def refused(error: BaseException) -> bool:
    """Whether MLflow itself says that what it was sent is wrong: no page of a proxy, and nothing about who sent it."""
    return isinstance(error, MlflowException) and error.error_code in _WRONG and _by_mlflow(error)


def passes(error: BaseException) -> bool:
    """Whether a run that goes on keeps its records for later: always, unless they are refused or it has to stop."""
    if isinstance(error, EverestError):
        return isinstance(error, Away | UsageError)
    return isinstance(error, Exception) and not refused(error)


def is_away(error: BaseException) -> bool:
    """Whether nobody answers, or MLflow cannot at the moment; false where an address or a password is wrong."""
    if not isinstance(error, MlflowException):
        return isinstance(error, OSError | BotoCoreError | ClientError | Away)
    if error.error_code in _BUSY:
        return True
    if error.error_code != ErrorCode.Name(INTERNAL_ERROR) or isinstance(error, InvalidUrlException):
        return False
    cause = error.__cause__ or error.__context__
    unanswered = isinstance(cause, RequestException) and not isinstance(cause, SSLError | TooManyRedirects | ValueError)
    return unanswered or not _remote()


def describe(error: BaseException) -> str:
    """One line, with what to set where that is known."""
    said = one_line(error)
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, SSLError) or "certificate bundle" in said:
        why = re.search(r"certificate verify failed: [^(]*[^( ]|Could not find .*|\[SSL.*?\][^(]*[^( ]", str(cause))
        return (
            f"{why[0] if why else one_line(cause)} (set MLFLOW_TRACKING_SERVER_CERT_PATH, or REQUESTS_CA_BUNDLE, to a "
            "file with the certificate of the authority that signed the server's, in a pod by a pod patch)"
        )
    if sent_on := re.search(r"failed with error code (3\d\d) ", said):
        return (
            f"it sends one on to another address ({sent_on[1]}): set EVEREST_MLFLOW_URI to where MLflow itself answers"
        )
    return said


def unless_refused(operation: Callable[[], Any], settings: PlatformSettings) -> None:
    """What MLflow does not accept is said, and stops nothing; any other error is raised."""
    try:
        operation()
    except MlflowException as error:
        if not refused(error):
            raise
        log.error("MLflow at %s refuses a record: %s", settings.tracking_uri, describe(error))  # noqa: TRY400


def _by_mlflow(error: MlflowException) -> bool:
    return isinstance(error, RestException) or not _remote()


def _remote() -> bool:
    return str(mlflow.get_tracking_uri()).startswith("http")
