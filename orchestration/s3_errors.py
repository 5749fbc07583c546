"""What S3's errors mean: whether they pass, whose they are, and what a person can do about them."""

from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    CredentialRetrievalError,
    InvalidConfigError,
    InvalidRegionError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError

from orchestration.outbox import one_line
from orchestration.settings import PlatformSettings

OF_S3 = (BotoCoreError, ClientError, RetriesExceededError, ResponseParserError)

#: What a policy must allow, by the operations that need it.
RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
}

_PASSING = {"RequestTimeout", "SlowDown", "OperationAborted", "ConditionalRequestConflict"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"}
_CREDENTIALS = {*_EXPIRED, "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "Unauthorized", "401"}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed",
              "IllegalLocationConstraintException"}  # fmt: skip
_NO_CREDENTIALS = (NoCredentialsError, NoAuthTokenError, PartialCredentialsError, ProfileNotFound, SSOError,
                   TokenRetrievalError, CredentialRetrievalError)  # fmt: skip
_WRONG_HERE = (ConfigParseError, InvalidConfigError, InvalidRegionError, ParamValidationError)


def is_away(error: BaseException) -> bool:
    """Whether the server, or the way to it, is away: that passes."""
    if isinstance(error, ClientError):
        status = status_of(error)
        return (status >= 500 and status != 501) or status in {408, 425, 429} or code_of(error) in _PASSING
    return isinstance(error, OF_S3) and not (isinstance(error, _NO_CREDENTIALS + _WRONG_HERE) or _is_certificate(error))


def is_absent(error: BaseException) -> bool:
    """There is no object of that key."""
    return isinstance(error, ClientError) and code_of(error) in {"NoSuchKey", "404"}


def is_refusal(error: BaseException) -> bool:
    """The server knows who asks, and does not do this for them."""
    return isinstance(error, ClientError) and not is_away(error) and code_of(error) not in _CREDENTIALS


def right_missing(error: BaseException) -> str | None:
    """Where a policy does not allow it."""
    if isinstance(error, ClientError) and code_of(error) in {"AccessDenied", "403", "AllAccessDisabled"}:
        return RIGHTS.get(error.operation_name)
    return None


def code_of(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


def status_of(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def server_of(settings: PlatformSettings) -> str:
    return f"S3 at {settings.s3_endpoint or 'AWS'}"


def describe(error: BaseException | None, settings: PlatformSettings) -> str:
    """One line, with what to do where that is known."""
    if isinstance(error, ClientError):
        answer = error.response["Error"]
        return f"{answer['Code']}: {one_line(answer.get('Message', ''))} ({_way_out(error, settings)})"
    if isinstance(error, _NO_CREDENTIALS):
        return (
            f"no key for S3: {one_line(error)} (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile; in "
            "a pod: EVEREST_S3_SECRET)"
        )
    if error and _is_certificate(error):
        return (
            f"{one_line(error)} (set AWS_CA_BUNDLE to a file with the certificate of the authority that signed the "
            "server's, in a pod by a pod patch; check EVEREST_S3_ENDPOINT)"
        )
    return " ".join(str(error).split()) if isinstance(error, _WRONG_HERE) else one_line(error)


def _way_out(error: ClientError, settings: PlatformSettings) -> str:
    code = code_of(error)
    if code in _ELSEWHERE or 300 <= status_of(error) < 400:
        return (
            f"the bucket {_elsewhere(error.response)}: set EVEREST_S3_REGION, now {settings.s3_region}, and "
            f"EVEREST_S3_ENDPOINT, now {settings.s3_endpoint or 'that of AWS'}"
        )
    if code in _EXPIRED:
        return "the credentials have expired; fresh ones are taken from where these came from"
    if code == "RequestTimeTooSkewed":
        return "the clock here, or the server's, is wrong"
    if right := right_missing(error):
        or_list = " (or s3:ListBucket, where the object is not there)" if right == "s3:GetObject" else ""
        return f"the right {right}{or_list} is missing; check EVEREST_S3_BUCKET and the key of the Secret or profile"
    return "check EVEREST_S3_ENDPOINT, EVEREST_S3_BUCKET and the key of the Secret or profile"


def _elsewhere(response: Any) -> str:
    region = response["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
    region = region or response["Error"].get("Region")
    return f"is in the region {region}" if region else "is in another region, or at another address"


def _is_certificate(error: BaseException) -> bool:
    """Not a connection that broke while it was made."""
    return isinstance(error, SSLError) and not any(word in str(error) for word in ("EOF", "timed out", "reset"))
