"""Checkpoints in S3: the only module that talks to it.

A run's files are below ``s3://BUCKET/PREFIX/RUN/``. Pointers are moved by conditional writes, so that only one
process can be a run's writer.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import ClientError, FlexibleChecksumError
from s3transfer.exceptions import CancelledError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
)

from everest.errors import Superseded, UsageError
from everest.files import whole_file
from orchestration.outbox import DICE, SAY_EVERY_S, Away, Outbox, pause
from orchestration.s3_errors import (
    OF_S3,
    RIGHTS,
    describe,
    is_absent,
    is_away,
    is_refusal,
    right_missing,
    server_of,
    status_of,
)
from orchestration.settings import PlatformSettings

log = logging.getLogger(__name__)

PART = 64 * 2**20  # bytes; larger files are uploaded in parts
POINTING = {RIGHTS["GetObject"], RIGHTS["PutObject"]}  # what pointers take
PATIENT = Config(connect_timeout=5, read_timeout=60)
_ATTEMPTS = 3  # of a request, before who asked hears of it
_TRANSFER = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=8)


class Entry(NamedTuple):
    """A file that is there."""

    key: str
    bytes: int
    modified: datetime
    etag: str


class S3Store:
    """A CheckpointStore.

    What is read is waited for, as long as the settings' patience: an outage, and what the server refuses though it
    allowed it before (``let_in``: rights that are known to be there). What is written raises the client's errors, for
    an ``uploads()`` queue that waits in the background. A file that is put is gone from its place when it is in S3.
    """

    def __init__(self, settings: PlatformSettings, run: str, let_in: Iterable[str] = ()) -> None:
        if not settings.s3_bucket:
            raise UsageError("EVEREST_S3_BUCKET (--s3-bucket) is not set; checkpoints of jobs are kept in S3")
        self.settings = settings
        self.bucket, self.prefix = settings.s3_bucket, "".join(f"{part}/" for part in (settings.s3_prefix, run) if part)
        self.address = f"s3://{self.bucket}/{self.prefix}"
        self.let_in = set(let_in)
        self._made: Any = None
        self._transfers: set[Any] = set()
        self._etags: dict[str, str | None] = {}
        self._closing = threading.Event()

    def uploads(self) -> Outbox:
        """A queue that waits out whatever S3 says; use it once the server has let one in. Close the store first."""
        return Outbox(
            server_of(self.settings),
            lambda error: isinstance(error, (*OF_S3, Away, UsageError)),
            lambda error: describe(error, self.settings),
        )

    def put(self, file: Path, key: str) -> None:
        sums = {"ChecksumAlgorithm": "SHA256"}
        self._transfer(lambda manager: manager.upload(str(file), self.bucket, self.prefix + key, extra_args=sums))
        file.unlink()

    def get(self, key: str, file: Path) -> None:
        def download() -> None:
            try:
                with whole_file(file) as part:
                    self._transfer(lambda manager: manager.download(self.bucket, self.prefix + key, str(part)))
            except FlexibleChecksumError:
                raise ValueError(f"{key} does not have the checksum it was uploaded with") from None

        self.patiently(download)

    def write(self, key: str, content: bytes) -> None:
        """In place of what was there, at once."""
        where = {"Bucket": self.bucket, "Key": self.prefix + key}
        self.client.put_object(**where, Body=content, ChecksumAlgorithm="SHA256")

    def content(self, key: str) -> bytes:
        """Raises FileNotFoundError."""

        def fetch() -> bytes:
            return bytes(self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read())

        found: bytes = self.patiently(fetch)
        return found

    def list(self, folder: str = "") -> Sequence[str]:
        """Raises UsageError where the server does not let one in, Away where it does not answer."""
        return [entry.key for entry in self.entries(folder)]

    def entries(self, folder: str = "") -> Sequence[Entry]:
        """The same with what S3 says of each."""

        def pages() -> list[Any]:
            pages = self.client.get_paginator("list_objects_v2")
            return list(pages.paginate(Bucket=self.bucket, Prefix=self.prefix + folder))

        found = (entry for page in self.patiently(pages) for entry in page.get("Contents", []))
        return sorted(
            Entry(each["Key"].removeprefix(self.prefix), each["Size"], each["LastModified"], each["ETag"])
            for each in found
        )

    def delete(self, key: str) -> None:
        try:
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)
        except OF_S3 as error:
            kind = PermissionError if is_refusal(error) else ConnectionError
            raise kind(describe(error, self.settings)) from None

    def read(self, key: str) -> str | None:
        def fetch() -> str | None:
            try:
                found = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            except ClientError as error:
                if not is_absent(error):
                    raise
                self._etags[key] = None
                return None
            text = str(found["Body"].read().decode(errors="replace"))
            self._etags[key] = found["ETag"]
            return text

        found: str | None = self.patiently(fetch)
        return found

    def point(self, key: str, text: str) -> None:
        known = self._etags.get(key)
        condition = {"IfMatch": known} if known else {"IfNoneMatch": "*"}
        try:
            moved = self.client.put_object(
                Bucket=self.bucket,
                Key=self.prefix + key,
                Body=text.encode(),
                ContentType="application/json",
                **condition,
            )
            self._etags[key] = moved["ETag"]
        except ClientError as error:
            if status_of(error) not in {404, 412}:
                raise
            if self.read(key) != text:  # it may be ours, and only the answer was lost
                raise Superseded(f"another process continues the run in {self.address}; this one stops") from None

    def abort_uploads(self) -> None:
        """Ends uploads in parts that a killed process left unfinished; where that cannot be done it is said."""
        try:
            pages = self.client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for upload in page.get("Uploads", []):
                    key, number = upload["Key"], upload["UploadId"]
                    self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=number)
        except OF_S3 as error:
            log.warning("uploads that an earlier process left unfinished stay: %s", describe(error, self.settings))

    def close(self) -> None:
        """Ends all waiting."""
        self._closing.set()
        ended = CancelledError("the store is closed")
        for manager in [*self._transfers]:
            manager.__exit__(type(ended), ended, None)  # shutdown(cancel=True) mixes up its arguments and raises

    def patiently(self, request: Callable[[], Any]) -> Any:
        """Does what cannot wait. Raises UsageError where one is not let in, Away where the server stays away."""
        waiting = _Waiting(self.settings)
        try:
            done = Retrying(
                retry=retry_if_exception(self._may_pass),
                wait=pause,
                stop=stop_after_delay(self.settings.patience_s) | stop_when_event_set(self._closing),
                sleep=sleep_using_event(self._closing),
                before_sleep=waiting.say,
                reraise=True,
            )(request)
        except OF_S3 as error:
            if is_absent(error):
                raise FileNotFoundError(f"{self.address} has no such file") from None
            said = describe(error, self.settings)
            if self._may_pass(error):
                raise Away(f"{self.address} was not reached in {waiting.seconds:.0f} s: {said}") from None
            raise UsageError(f"S3 bucket {self.bucket} at {self.settings.s3_endpoint or 'AWS'}: {said}") from None
        waiting.over()
        return done

    @property
    def client(self) -> Any:
        """boto3's. Made anew after a refusal: there may be fresh credentials."""
        if self._made is None:
            self._made = s3_client(self.settings)
            self._made.meta.events.register("after-call.s3", self._note)
            self._made.meta.events.register("after-call-error.s3", self._forget)
            if self.settings.s3_endpoint:
                self._made.meta.events.register("before-call.s3", _stay)
        return self._made

    def _note(self, http_response: Any, model: Any, **_: Any) -> None:
        if http_response.status_code < 300:
            self.let_in |= {RIGHTS[model.name]} if model.name in RIGHTS else set()
        elif http_response.status_code in {400, 401, 403}:
            self._forget()

    def _forget(self, **_: Any) -> None:
        self._made = None

    def _may_pass(self, error: BaseException) -> bool:
        """An outage; a refusal of what was allowed before."""
        if is_away(error):
            return True
        if not isinstance(error, OF_S3) or is_absent(error):
            return False
        right = right_missing(error)
        return right in self.let_in if right else bool(self.let_in)

    def _transfer(self, start: Callable[[Any], Any]) -> None:
        if self._closing.is_set():
            raise CancelledError("the store is closed")
        with create_transfer_manager(self.client, _TRANSFER) as manager:
            self._transfers.add(manager)
            try:
                start(manager).result()
            finally:
                self._transfers.discard(manager)


def _stay(context: Any, **_: Any) -> None:
    """boto3 looks for a bucket's region at AWS alone: from another server's redirect it does not find out again."""
    context.get("s3_redirect", {})["redirected"] = True


class _Waiting:
    """Says which server is waited for, how long, and what it said last."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.settings = settings
        self._started, self._said = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def say(self, state: RetryCallState) -> None:
        if self._said and time.monotonic() - self._said < SAY_EVERY_S:
            return
        error = describe(state.outcome.exception() if state.outcome else None, self.settings)
        server, patience = server_of(self.settings), self.settings.patience_s
        log.warning("waiting for %s: %.0f s of %d (%s)", server, self.seconds, patience, error)
        self._said = time.monotonic()

    def over(self) -> None:
        if self._said:
            log.info("%s answers again, after %.0f s", server_of(self.settings), self.seconds)


def s3_client(settings: PlatformSettings, patience: Config = PATIENT, attempts: int = _ATTEMPTS) -> Any:
    """With the keys that boto3 finds: environment, profile, or the pod's role. Raises UsageError for an endpoint."""
    style = {"addressing_style": "path"} if settings.s3_endpoint else {}
    config = patience.merge(Config(s3=style, retries={"mode": "standard", "total_max_attempts": 1}))
    where = {"endpoint_url": settings.s3_endpoint, "region_name": settings.s3_region}
    try:
        client = boto3.Session().client("s3", config=config, **where)
    except ValueError as error:
        raise UsageError(f"EVEREST_S3_ENDPOINT (--s3-endpoint) = {settings.s3_endpoint!r}: {error}") from None
    client.meta.events.register("needs-retry.s3", partial(_again, attempts))
    if settings.s3_endpoint:
        client.meta.events.register("before-call.s3", _stays)
    return client


def _stays(params: dict[str, Any], **_: Any) -> None:
    """A server that was named is the one that is meant. (Asked for a bucket's region, one that sends every request
    elsewhere would be asked again by botocore, and again.)"""
    params["context"]["s3_redirect"]["redirected"] = True


def _again(of: int, attempts: int, response: Any, operation: Any, caught_exception: Any, **_: Any) -> float | None:
    """Seconds until a request that failed in passing is sent again; botocore would draw them from training's dice."""
    if attempts >= of:
        return None
    failed = response and response[0].status_code >= 300
    error = caught_exception or (ClientError(response[1], operation.name) if failed else None)
    return DICE.uniform(0, 2 ** (attempts - 1)) if error and is_away(error) else None
