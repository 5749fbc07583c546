"""``everest doctor``: what a user's environment has and lacks, a line each, with what to do."""

import os
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from everest.errors import EverestError, UsageError
from orchestration.outbox import one_line
from orchestration.settings import PlatformSettings

if TYPE_CHECKING:
    from orchestration.cluster.checks import Cluster

_PATIENCE_S = 5


class Verdict(Enum):
    GOOD = "ok"
    UNSET = "-"  # not asked for, and not needed here
    BAD = "!!"


class Finding(NamedTuple):
    verdict: Verdict
    what: str
    said: str


class _Unset(EverestError):
    """Nothing is named that could be checked."""


def doctor(pull: bool, tell: bool) -> int:
    """Prints what ``examine`` finds. Returns the exit code: 1 where something does not work."""
    found = []
    for finding in examine(PlatformSettings.load(), pull, tell):
        print(f"{finding.verdict.value:2}  {finding.what:12} {finding.said}", flush=True)
        found.append(finding.verdict)
    return int(Verdict.BAD in found)


def examine(settings: PlatformSettings, pull: bool = False, tell: bool = False) -> Iterator[Finding]:
    """One finding after the other, as they are made. ``pull`` an image, ``tell`` the webhook: only who wants that."""
    yield _find("processor", _processor)
    yield from _cluster(settings, pull)
    yield _find("S3", lambda: _s3(settings))
    yield _find("MLflow", lambda: _mlflow(settings))
    yield _find("sweeps", lambda: _studies(settings))
    yield examine_news(settings, tell)


def examine_news(settings: PlatformSettings, tell: bool) -> Finding:
    return _find("news", lambda: _webhook(settings, tell))


def _find(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(Verdict.GOOD, what, check())
    except _Unset as unset:
        return Finding(Verdict.UNSET, what, str(unset))
    except EverestError as error:
        return Finding(Verdict.BAD, what, str(error))


def _processor() -> str:
    import torch

    from everest.training.device import choose_device

    choose_device("auto")  # raises where this machine has GPUs that cannot be used
    if not torch.cuda.is_available():
        return f"no GPU that torch {torch.__version__} can use: {os.cpu_count()} cores, enough for make demo"
    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return f"{torch.cuda.device_count()} GPUs ({', '.join(sorted(names))})"


def _cluster(settings: PlatformSettings, pull: bool) -> Iterator[Finding]:
    if not os.environ.get("KUBECONFIG") and not Path("~/.kube/config").expanduser().exists():
        said = "none is named (KUBECONFIG); LAUNCHER=local runs jobs and sweeps on this machine"
        yield Finding(Verdict.UNSET, "cluster", said)
        return
    from orchestration.cluster.checks import Cluster

    try:
        cluster = Cluster(settings)
        yield Finding(Verdict.GOOD, "cluster", f"Kubernetes {cluster.version()} answers")
    except EverestError as error:
        yield Finding(Verdict.BAD, "cluster", str(error))
        return
    yield _find("rights", lambda: _rights(cluster))
    yield _find("operator", cluster.operator)
    yield _find("GPUs", lambda: _gpus(cluster, settings))
    yield _find("image", lambda: _image(cluster, settings, pull))


def _rights(cluster: "Cluster") -> str:
    cluster.require_namespace()
    if forbidden := cluster.forbidden():
        raise EverestError(
            f"in {cluster.namespace} one may not {', '.join(forbidden)}; the chart's role for submitters allows it"
        )
    return f"jobs may be submitted to {cluster.namespace}"


def _gpus(cluster: "Cluster", settings: PlatformSettings) -> str:
    from orchestration.cluster.errors import Forbidden

    try:
        found = cluster.gpus()
    except Forbidden:
        raise _Unset("one may not see what nodes have (the chart's accounts.seeNodes allows it)") from None
    most = max(found.values(), default=0)
    if most < settings.gpus:
        raise EverestError(
            f"a pod asks for {settings.gpus} (EVEREST_GPUS) {settings.gpu_resource}, and no node has more than {most}; "
            "is the device plugin of the GPUs installed, and is that their name (EVEREST_GPU_RESOURCE)?"
        )
    return ", ".join(f"{name} has {count}" for name, count in sorted(found.items()))


def _image(cluster: "Cluster", settings: PlatformSettings, pull: bool) -> str:
    from orchestration.cluster.errors import Forbidden

    if pull:
        try:
            return f"{settings.image} is pulled on {cluster.pull()}"
        except Forbidden:
            raise
        except EverestError as error:
            raise EverestError(f"{settings.image} (EVEREST_IMAGE) cannot be pulled: {error}") from None
    try:
        nodes = cluster.nodes_with_image()
    except Forbidden:
        nodes = []
    if not nodes:
        raise _Unset(f"whether nodes can pull {settings.image} (EVEREST_IMAGE) is tried by everest doctor --pull")
    return f"{settings.image} is on {', '.join(nodes)}"


def _s3(settings: PlatformSettings) -> str:
    if not settings.s3_bucket:
        raise _Unset("no bucket is named (EVEREST_S3_BUCKET); runs here keep their checkpoints in the work folder")
    from orchestration.s3_checks import require_all

    require_all(settings)
    return (
        f"s3://{settings.s3_bucket} is listed, written, also in parts, read, cleared, and moves pointers by condition"
    )


def _mlflow(settings: PlatformSettings) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    from orchestration.tracking.connection import connect
    from orchestration.tracking.errors import describe, is_away

    connect(settings)
    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        said = "does not answer; make ui forwards the chart's" if is_away(error) else describe(error)
        raise EverestError(
            f"MLflow at {settings.tracking_uri}: {said} (EVEREST_MLFLOW_URI, MLFLOW_TRACKING_…)"
        ) from None
    if not settings.mlflow_uri:
        return f"{settings.tracking_uri} (EVEREST_MLFLOW_URI names no server)"
    theirs, ours = _server_version(settings.mlflow_uri), mlflow.__version__
    if theirs.split(".")[:1] != ours.split(".")[:1]:
        raise EverestError(
            f"{settings.mlflow_uri} runs MLflow {theirs or '(unknown)'}, this is {ours}; upgrade the server"
        )
    return f"{settings.mlflow_uri} answers, MLflow {theirs}"


def _server_version(address: str) -> str:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(address), "/version", "GET", timeout=_PATIENCE_S)
    return answer.text.strip() if answer.ok else ""


def _studies(settings: PlatformSettings) -> str:
    address = settings.study_uri
    if settings.studies is None:
        raise _Unset(f"kept in {address}; a controller in a cluster needs PostgreSQL (EVEREST_STUDIES)")
    if address.startswith("journal:"):
        return address
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_engine(address).connect() as connection:
            connection.execute(text("select 1"))
    except SQLAlchemyError as error:
        raise EverestError(f"EVEREST_STUDIES = {address!r}: {one_line(error)} (PGPASSWORD, ~/.pgpass)") from None
    return f"{address} answers"


def _webhook(settings: PlatformSettings, tell: bool) -> str:
    from orchestration.webhook import WEBHOOK, News, Webhook

    try:
        webhook = Webhook.here()
    except UsageError as error:
        if settings.notify_secret and not tell:
            said = f"jobs find a webhook in the Secret {settings.notify_secret} (EVEREST_NOTIFY_SECRET)"
            raise _Unset(f"{said}; with {WEBHOOK} here too, everest doctor --tell tries it") from None
        raise EverestError(str(error)) from None
    if webhook is None:
        raise _Unset(f"nobody is told how runs go ({WEBHOOK}, or a Secret with it: EVEREST_NOTIFY_SECRET)")
    if not tell:
        raise _Unset(f"a webhook is named ({WEBHOOK}); everest doctor --tell sends it a test message")
    try:
        webhook.post(News("test", "everest doctor", settings.user, "a test message; news of runs arrive here"))
    except EverestError as error:
        raise EverestError(f"the webhook ({WEBHOOK}) does not take a test message: {error}") from None
    return f"the webhook ({WEBHOOK}) took a test message"
