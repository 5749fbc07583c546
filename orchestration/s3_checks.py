"""What a run needs of S3, tried one operation after the other."""

import uuid
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError

from everest.errors import EverestError, UsageError
from orchestration.s3 import S3Store, s3_client
from orchestration.s3_errors import OF_S3, code_of, right_missing, server_of, status_of
from orchestration.settings import PlatformSettings, variable

_PATIENCE_S = 5
_IN_PASSING = Config(connect_timeout=2, read_timeout=3)
_CONTENT = b"everest doctor"
_WITHOUT = {
    "s3:DeleteObject": "old checkpoints stay",
    "s3:ListBucketMultipartUploads": "parts of uploads that were broken off stay",
    "s3:AbortMultipartUpload": "parts of uploads that were broken off stay",
}


def require_all(settings: PlatformSettings) -> None:
    """Raises EverestError that names what is missing, all of it."""
    trial = _Trial(settings)
    try:
        trial.objects()
        trial.uploads_in_parts()
        trial.clear()
    finally:
        trial.store.close()
    if trial.missing:
        named = ", ".join(right + (f" ({_WITHOUT[right]})" if right in _WITHOUT else "") for right in trial.missing)
        raise EverestError(
            f"the key for s3://{trial.store.bucket} at {settings.s3_endpoint or 'AWS'} lacks {named}; docs/cluster.md "
            "has the policy that a run needs"
        )


def require_bucket(settings: PlatformSettings) -> None:
    """Raises UsageError where S3 says that there is none. Any other answer, or none, is left to the pods to find out,
    which may have other keys and another way to the server."""
    if settings.pod_s3_endpoint and not settings.s3_endpoint:
        return
    try:
        s3_client(settings, _IN_PASSING, attempts=1).list_objects_v2(Bucket=settings.s3_bucket, MaxKeys=1)
    except OF_S3 as error:
        if isinstance(error, ClientError) and code_of(error) == "NoSuchBucket":
            raise UsageError(
                f"{variable('s3_bucket')} = {settings.s3_bucket!r}: {server_of(settings)} has no such bucket; "
                "make it, or name another"
            ) from None


class _Trial:
    def __init__(self, settings: PlatformSettings) -> None:
        self.settings = settings.model_copy(update={"patience_s": _PATIENCE_S})
        self.store = S3Store(self.settings, f"everest-doctor-{uuid.uuid4().hex[:8]}")
        self.missing: dict[str, None] = {}
        self._client = s3_client(self.settings)
        self._object, self._parts = (self.store.prefix + name for name in ("object", "parts"))

    def objects(self) -> None:
        self._ask("list_objects_v2", Prefix=self.store.prefix)
        made = self._ask("put_object", Key=self._object, Body=_CONTENT, IfNoneMatch="*", ChecksumAlgorithm="SHA256")
        if not made:
            return
        self._ask("head_object", Key=self._object)
        found = self._ask("get_object", Key=self._object)
        if found and found["Body"].read() != _CONTENT:
            raise EverestError(f"{self.store.address}: what is read is not what was written")
        self._ask("put_object", Key=self._object, Body=_CONTENT, IfMatch=made["ETag"])
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}):
            if self._ask("put_object", Key=self._object, Body=b"", **condition):
                raise EverestError(
                    f"{server_of(self.settings)} ignores conditions ({', '.join(condition)}), so that two pods could "
                    "write one run; use a server that honours them"
                )

    def uploads_in_parts(self) -> None:
        if whole := self._ask("create_multipart_upload", Key=self._parts):
            this = {"Key": self._parts, "UploadId": whole["UploadId"]}
            if part := self._ask("upload_part", PartNumber=1, Body=_CONTENT, **this):
                parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
                self._ask("complete_multipart_upload", MultipartUpload={"Parts": parts}, **this)
        self._ask("list_multipart_uploads", Prefix=self.store.prefix)
        if broken_off := self._ask("create_multipart_upload", Key=self._parts):
            self._ask("abort_multipart_upload", Key=self._parts, UploadId=broken_off["UploadId"])

    def clear(self) -> None:
        for key in (self._object, self._parts):
            self._ask("delete_object", Key=key)

    def _ask(self, operation: str, **arguments: Any) -> Any:
        """The answer; None where it is denied, or its condition does not hold."""

        def request() -> Any:
            try:
                return getattr(self._client, operation)(Bucket=self.store.bucket, **arguments)
            except ClientError as error:
                if status_of(error) == 412:
                    return None
                if status_of(error) in {405, 501}:
                    self.missing[f"{error.operation_name}, which the server does not know"] = None
                elif right := right_missing(error):
                    self.missing[right] = None
                else:
                    raise
                return None

        return self.store.patiently(request)
