"""What a cluster, or its absence, answers: in one line for a person."""

import os
import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec, TypeVar

import urllib3
import yaml
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException

from everest.errors import EverestError, UsageError
from orchestration.job import Unreachable
from orchestration.outbox import one_line

P = ParamSpec("P")
T = TypeVar("T")


class Forbidden(EverestError):
    """The cluster does not let one."""


def answered(call: Callable[P, T]) -> Callable[P, T]:
    """Errors of a call to the cluster become EverestErrors."""

    @wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except (RuntimeError, ApiException, ConfigException, urllib3.exceptions.HTTPError, OSError) as error:
            raise said(error) from None

    return wrapped


def configured(call: Callable[P, T]) -> Callable[P, T]:
    """``answered``, of a call that reads the kubeconfig, which may hold whatever."""

    @wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return answered(call)(*args, **kwargs)
        except (UnicodeError, yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError) as error:
            raise UsageError(f"no cluster: {_kubeconfig()} is no kubeconfig: {one_line(error)} (KUBECONFIG)") from None

    return wrapped


def said(error: BaseException) -> EverestError:
    """One line for what the client library or the API server said."""
    for cause in _causes(error):
        if isinstance(cause, EverestError):
            return cause
        if isinstance(cause, ConfigException):
            return UsageError(f"no cluster: {' '.join(str(cause).split())} (KUBECONFIG, EVEREST_CONTEXT)")
        if isinstance(cause, ApiException):
            return _api_said(cause)
        if isinstance(cause, OSError) and cause.filename:
            return UsageError(f"no cluster: {cause.filename}: {cause.strerror} (KUBECONFIG)")
        if isinstance(cause, urllib3.exceptions.HTTPError | OSError):
            why = cause.reason if isinstance(cause, urllib3.exceptions.MaxRetryError) else cause
            return Unreachable(f"the cluster does not answer: {' '.join(str(why).split())[:200]} (KUBECONFIG)")
    raise error


def api_error(error: BaseException) -> ApiException | None:
    """What the API server answered, where the client library has wrapped it."""
    return next((cause for cause in _causes(error) if isinstance(cause, ApiException)), None)


def is_there_already(error: BaseException) -> bool:
    """Whether something of that name is; a conflict may be of other kinds too."""
    found = api_error(error)
    return found is not None and found.status == 409 and '"reason":"AlreadyExists"' in str(found.body)


def _kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _api_said(error: ApiException) -> EverestError:
    body = str(error.body)
    message = (re.search(r'"message":"((?:[^"\\]|\\.)*)"', body) or ["", body])[1].replace('\\"', '"')
    message = " ".join(message.split())[:600]
    if error.status == 404 and "page not found" in body:
        return EverestError("the cluster knows no such jobs: what makes their pods (EVEREST_OPERATOR) is not installed")
    if error.status == 401:
        return EverestError("the cluster does not know who you are; renew the login of this kubeconfig context")
    if error.status == 403:
        return Forbidden(f"the cluster does not allow it: {message}")
    kind = Unreachable if error.status >= 500 or error.status == 429 else EverestError
    return kind(f"the cluster refuses ({error.status}): {message or error.reason}")
