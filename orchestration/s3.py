"""Checkpoints in S3: the only module that talks to it.

A run's files are below ``s3://BUCKET/PREFIX/RUN/``. Pointers are moved by conditional writes, so that only one
process can be a run's writer.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, NoCredentialsError
from s3transfer.exceptions import CancelledError, RetriesExceededError
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from everest.errors import Superseded, UsageError
from everest.files import whole_file
from orchestration.outbox import LONGEST_WAIT_S, Away, Outbox, one_line
from orchestration.settings import PlatformSettings

_OF_S3 = (BotoCoreError, ClientError, RetriesExceededError)
_TRANSFER = TransferConfig(multipart_threshold=64 * 2**20, multipart_chunksize=64 * 2**20, max_concurrency=8)


class S3Store:
    """A CheckpointStore.

    What is read is waited for, as long as the settings' patience. What is written raises the client's errors, for an
    ``uploads()`` queue that waits in the background. A file that is put is gone from its place when it is in S3.
    """

    def __init__(self, settings: PlatformSettings, run: str) -> None:
        if not settings.s3_bucket:
            raise UsageError("EVEREST_S3_BUCKET (--s3-bucket) is not set; checkpoints of jobs are kept in S3")
        self.settings = settings
        self.bucket, self.prefix = settings.s3_bucket, f"{settings.s3_prefix}/{run}/"
        self.address = f"s3://{self.bucket}/{self.prefix}"
        self._client = s3_client(settings)
        self._manager = create_transfer_manager(self._client, _TRANSFER)
        self._etags: dict[str, str | None] = {}
        self._closing = threading.Event()

    def uploads(self) -> Outbox:
        """A queue that waits out whatever S3 says; use it once the server has let one in. Close the store first."""
        server = f"S3 at {self.settings.s3_endpoint or 'AWS'}"
        return Outbox(server, lambda error: isinstance(error, (*_OF_S3, Away, UsageError)))

    def put(self, file: Path, key: str) -> None:
        sums = {"ChecksumAlgorithm": "SHA256"}
        self._manager.upload(str(file), self.bucket, self.prefix + key, extra_args=sums).result()
        file.unlink()

    def get(self, key: str, file: Path) -> None:
        def download() -> None:
            with whole_file(file) as temporary:
                self._manager.download(self.bucket, self.prefix + key, str(temporary)).result()

        try:
            self.patiently(download)
        except FlexibleChecksumError:
            raise ValueError(f"{key} does not have the checksum it was uploaded with") from None

    def list(self) -> Sequence[str]:
        """Raises UsageError where the server does not let one in, Away where it does not answer."""
        pages = self._client.get_paginator("list_objects_v2")
        found = self.patiently(lambda: list(pages.paginate(Bucket=self.bucket, Prefix=self.prefix)))
        return sorted(entry["Key"].removeprefix(self.prefix) for page in found for entry in page.get("Contents", []))

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def read(self, key: str) -> str | None:
        def fetch() -> str | None:
            try:
                found = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            except self._client.exceptions.NoSuchKey:
                self._etags[key] = None
                return None
            self._etags[key] = found["ETag"]
            return str(found["Body"].read().decode())

        return self.patiently(fetch)

    def point(self, key: str, text: str) -> None:
        known = self._etags.get(key)
        condition = {"IfMatch": known} if known else {"IfNoneMatch": "*"}
        try:
            moved = self._client.put_object(
                Bucket=self.bucket,
                Key=self.prefix + key,
                Body=text.encode(),
                ContentType="application/json",
                **condition,
            )
            self._etags[key] = moved["ETag"]
        except ClientError as error:
            if _status(error) not in {404, 412}:
                raise
            if self.read(key) != text:  # it may be ours, and only the answer was lost
                raise Superseded(f"another process continues the run in {self.address}; this one stops") from None

    def abort_uploads(self) -> None:
        """Ends uploads in parts that a killed process left unfinished."""
        pages = self._client.get_paginator("list_multipart_uploads")
        found = self.patiently(lambda: list(pages.paginate(Bucket=self.bucket, Prefix=self.prefix)))
        for upload in [upload for page in found for upload in page.get("Uploads", [])]:
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def close(self) -> None:
        """Ends all waiting."""
        self._closing.set()
        ended = CancelledError("the store is closed")
        self._manager.__exit__(type(ended), ended, None)  # shutdown(cancel=True) mixes up its arguments and raises

    def patiently(self, request: Callable[[], Any]) -> Any:
        """Does what cannot wait. Raises UsageError where one is not let in, Away where the server stays away."""
        started = time.monotonic()
        try:
            return Retrying(
                retry=retry_if_exception(_is_away),
                wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
                stop=stop_after_delay(self.settings.patience_s) | stop_when_event_set(self._closing),
                sleep=sleep_using_event(self._closing),
                reraise=True,
            )(request)
        except NoCredentialsError:
            raise UsageError(
                "no key for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile (in a pod: "
                "EVEREST_S3_SECRET)"
            ) from None
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                raise FileNotFoundError(f"{self.address} has no such file") from None
            if _is_away(error):
                raise Away(f"S3 bucket {self.bucket}: {one_line(error)}") from None
            said = error.response["Error"]
            raise UsageError(
                f"S3 bucket {self.bucket} at {self.settings.s3_endpoint or 'AWS'}: {said['Code']}: "
                f"{said.get('Message', '')} "
                "(check EVEREST_S3_ENDPOINT, EVEREST_S3_BUCKET and the key of the Secret or profile)"
            ) from None
        except FlexibleChecksumError:
            raise
        except (BotoCoreError, RetriesExceededError) as error:
            waited = time.monotonic() - started
            raise Away(f"{self.address} was not reached in {waited:.0f} s: {one_line(error)}") from None


def s3_client(settings: PlatformSettings) -> Any:
    """With the keys that boto3 finds: environment, profile, or the pod's role."""
    return boto3.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        config=Config(
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=60,
            s3={"addressing_style": "path"} if settings.s3_endpoint else {},
        ),
    )


def _is_away(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        return _status(error) >= 500 or _status(error) in {408, 429}
    return isinstance(error, BotoCoreError | RetriesExceededError) and not isinstance(
        error, NoCredentialsError | FlexibleChecksumError
    )


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
