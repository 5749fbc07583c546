"""A real S3 server that denies, whose credentials expire, and from which things come damaged."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.training.checkpoint import Checkpoints
from orchestration.job import JobSpec
from orchestration.outbox import Away, Outbox
from orchestration.s3 import S3Store, s3_client
from orchestration.s3_checks import require_all, require_bucket
from orchestration.s3_errors import RIGHTS
from orchestration.settings import PlatformSettings
from tests.s3_proxy import DENIED, EXPIRED, Refusal, S3Proxy
from tests.services import KEYS, S3, s3_settings

SKEWED = Refusal(403, "RequestTimeTooSkewed")
UNKNOWN_KEY = Refusal(403, "InvalidAccessKeyId")
MOVED = Refusal(301, "PermanentRedirect", "The bucket you are attempting to access must be addressed elsewhere.")


@pytest.fixture
def settings(proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    return s3_settings(monkeypatch, proxy.address)


@pytest.fixture
def checkpoints(store: S3Store, uploads: Outbox, tmp_path: Path) -> Checkpoints:
    made = Checkpoints(store, tmp_path, keep=2, queue=uploads)
    made.take_over(made.newest())
    uploads.flush(300)
    return made


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"w": torch.full((1000,), float(step))}, {"step": step}, {"classes.txt": "a"})
        checkpoints.finish()


@contextmanager
def refusing(proxy: S3Proxy, refusal: Refusal, seconds: float) -> Iterator[None]:
    """All operations, for so long."""
    proxy.refused["*"] = refusal
    timer = threading.Timer(seconds, proxy.refused.clear)
    timer.start()
    yield
    timer.join()


class Spoiler:
    """Flips a byte, or cuts one off, the first so many times that something is asked for."""

    def __init__(self, times: int, cut: bool = False, only: str = "") -> None:
        self.times, self.cut, self.only = times, cut, only
        self.left: dict[str, int] = {}

    def __call__(self, key: str, content: bytes) -> bytes:
        self.left[key] = self.left.get(key, self.times)
        if "/step-" not in key or self.only not in key or self.left[key] == 0:
            return content
        self.left[key] -= 1
        middle = len(content) // 2
        return content[:-1] if self.cut else content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_damaged_on_its_way_is_fetched_again(
    proxy: S3Proxy, uploads: Outbox, checkpoints: Checkpoints, cut: bool
) -> None:
    save(checkpoints, 1)
    uploads.flush(300)
    proxy.spoil = Spoiler(1, cut)
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.weights["w"].unique().tolist()) == (1, [1.0])


def test_where_all_stays_damaged_nothing_is_begun_anew_and_nothing_removed(
    proxy: S3Proxy, store: S3Store, uploads: Outbox, checkpoints: Checkpoints
) -> None:
    save(checkpoints, 1)
    uploads.flush(300)
    before = store.list()
    proxy.spoil = Spoiler(1000, only="model.safetensors")
    with pytest.raises(
        EverestError, match=r"none of the 1 checkpoints in s3://.*step-00000001-\w+: .*model.safetensors does not"
    ):
        checkpoints.newest()
    proxy.spoil = Spoiler(0)
    found = checkpoints.newest()
    assert found is not None
    assert store.list() == before
    assert not proxy.asked["DeleteObject"]


def test_checkpoints_go_on_where_housekeeping_is_denied(
    proxy: S3Proxy, store: S3Store, uploads: Outbox, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    for operation in ("DeleteObject", "ListMultipartUploads", "AbortMultipartUpload", "ListObjectsV2"):
        proxy.refused[operation] = DENIED
    store.abort_uploads()
    for step in range(1, 6):
        save(checkpoints, step)
        checkpoints.mark_best("val/top1", step / 10)
        checkpoints.finish()
        uploads.flush(300)
    proxy.refused.clear()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 5
    assert caplog.text.count("old checkpoints cannot be removed and stay") == 1
    assert "the right s3:DeleteObject is missing" in caplog.text
    assert "left unfinished stay: AccessDenied: Access Denied. (the right s3:ListBucketMultipartUploads" in caplog.text


@pytest.mark.parametrize("refusal", [EXPIRED, SKEWED, UNKNOWN_KEY, DENIED, Refusal(404, "NoSuchBucket")])
def test_what_is_refused_for_a_while_in_mid_run_is_waited_out(
    proxy: S3Proxy, store: S3Store, uploads: Outbox, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture,
    refusal: Refusal,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    save(checkpoints, 1)
    uploads.flush(300)
    assert checkpoints.newest(), "what was never let in is not waited for"
    with refusing(proxy, refusal, 0.5):
        save(checkpoints, 2)
        found = checkpoints.newest()
    uploads.flush(300)
    assert found is not None
    assert store.list()
    for said in (
        f"S3 at {proxy.address} does not answer; going on",
        f"waiting for S3 at {proxy.address}: 0 s of 300 (",
    ):
        assert said in caplog.text
    assert refusal.code in caplog.text
    assert "answers again, after" in caplog.text


def test_fresh_credentials_are_taken_when_they_appear(
    proxy: S3Proxy, store: S3Store, uploads: Outbox, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints, 1)
    uploads.flush(300)
    good = store.client._request_signer._credentials.secret_key
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "replaced")
    with refusing(proxy, EXPIRED, 0.3):
        save(checkpoints, 2)
    with pytest.raises(Away, match=r"has not taken .* in 2 s; at last: SignatureDoesNotMatch: "):
        uploads.flush(2)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", good)
    uploads.flush(300)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("refusal", [EXPIRED, SKEWED, UNKNOWN_KEY, DENIED])
def test_a_run_that_was_let_in_before_waits_and_a_new_one_is_refused_at_once(
    proxy: S3Proxy, settings: PlatformSettings, refusal: Refusal
) -> None:
    new, known = S3Store(settings, "run"), S3Store(settings, "run", RIGHTS.values())
    proxy.refused["*"] = refusal
    with pytest.raises(UsageError, match=f"S3 bucket .* at {proxy.address}: {refusal.code}: "):
        new.read("starts.json")
    with refusing(proxy, refusal, 0.3):
        assert known.read("starts.json") is None
    for store in (new, known):
        store.close()


def test_a_right_that_was_never_there_is_named_at_once(proxy: S3Proxy, store: S3Store) -> None:
    store.point("pointer", "1")
    proxy.refused["ListObjectsV2"] = DENIED
    with pytest.raises(UsageError, match=r"AccessDenied: .*the right s3:ListBucket is missing"):
        store.list()


def test_a_refusal_that_lasts_is_no_wrong_usage(proxy: S3Proxy, settings: PlatformSettings) -> None:
    """A job that has run is not removed as one that was started wrongly."""
    store = S3Store(settings.model_copy(update={"patience_s": 1}), "run", RIGHTS.values())
    proxy.refused["*"] = EXPIRED
    with pytest.raises(
        Away, match=r"s3://.* was not reached in \d+ s: ExpiredToken: .*credentials have expired"
    ) as said:
        store.read("starts.json")
    assert said.value.exit_code == 1
    store.close()


def test_a_bucket_elsewhere_is_said_at_once_with_what_to_set(proxy: S3Proxy, store: S3Store) -> None:
    proxy.refused["*"] = MOVED
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"EVEREST_S3_REGION, now us-east-1, and EVEREST_S3_ENDPOINT, now http://127"):
        store.read("starts.json")
    assert time.monotonic() - started < store.settings.patience_s


def test_a_certificate_nobody_vouches_for_is_said_at_once_with_what_to_set(
    settings: PlatformSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The plain server speaks no TLS at all, and no file of authorities is where it should be."""
    encrypted = settings.model_copy(update={"s3_endpoint": S3.replace("http:", "https:")})
    for bundle in (None, str(tmp_path / "absent.pem")):
        if bundle:
            monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
        store = S3Store(encrypted, "run")
        with pytest.raises(UsageError, match=r"SSL validation failed for https://.*set AWS_CA_BUNDLE"):
            store.read("starts.json")
        store.close()


def test_doctor_tries_all_that_a_run_needs_and_leaves_nothing(proxy: S3Proxy, settings: PlatformSettings) -> None:
    require_all(settings)
    assert set(RIGHTS) <= set(proxy.asked)
    client = s3_client(settings)
    there = {"Bucket": settings.s3_bucket, "Prefix": settings.s3_prefix}
    assert "Contents" not in client.list_objects_v2(**there)
    assert "Uploads" not in client.list_multipart_uploads(**there)


@pytest.mark.parametrize("operation", RIGHTS)
def test_doctor_names_the_right_that_is_missing(proxy: S3Proxy, settings: PlatformSettings, operation: str) -> None:
    proxy.refused[operation] = Refusal(403, "403" if operation == "HeadObject" else "AccessDenied")
    with pytest.raises(EverestError, match=f"the key for s3://.* lacks {RIGHTS[operation]}[ ;(].*docs/cluster.md"):
        require_all(settings)


def test_doctor_names_all_that_is_missing_at_once(proxy: S3Proxy, settings: PlatformSettings) -> None:
    for operation in ("DeleteObject", "ListMultipartUploads"):
        proxy.refused[operation] = DENIED
    said = r"lacks s3:ListBucketMultipartUploads \(parts .* stay\), s3:DeleteObject \(old checkpoints stay\);"
    with pytest.raises(EverestError, match=said):
        require_all(settings)


def test_doctor_says_what_a_server_does_not_know(proxy: S3Proxy, settings: PlatformSettings) -> None:
    proxy.refused["ListMultipartUploads"] = Refusal(501, "NotImplemented")
    with pytest.raises(EverestError, match="lacks ListMultipartUploads, which the server does not know;"):
        require_all(settings)


def test_no_message_has_the_key(proxy: S3Proxy, store: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    proxy.refused["*"] = UNKNOWN_KEY
    with pytest.raises(UsageError) as error:
        store.list()
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(error.value) + caplog.text


def test_a_bucket_that_is_not_there_is_refused_before_a_pod_starts(settings: PlatformSettings) -> None:
    require_bucket(settings)
    missing = settings.model_copy(update={"s3_bucket": "no-such-bucket"})
    with pytest.raises(
        UsageError, match=r"EVEREST_S3_BUCKET \(--s3-bucket\) = 'no-such-bucket': S3 at http.* has no such"
    ):
        require_bucket(missing)
    require_bucket(missing.model_copy(update={"s3_endpoint": None, "pod_s3_endpoint": settings.s3_endpoint}))


def test_a_launcher_of_many_jobs_asks_for_its_bucket_once(
    settings: PlatformSettings, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = {"name": "none", "cluster": {"server": "https://127.0.0.1:9"}}
    context = {"name": "none", "context": {"cluster": "none", "user": "me"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "none", "clusters": [cluster]}
    users = [{"name": "me", "user": {"token": "x"}}]
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump({**config, "contexts": [context], "users": users}))
    # The client reads KUBECONFIG when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    from orchestration.cluster.jobs import OPERATORS, Jobs
    from orchestration.cluster.launcher import KubernetesLauncher

    monkeypatch.setattr(Jobs, "operators", OPERATORS)
    launcher = KubernetesLauncher(settings.model_copy(update={"pod_s3_endpoint": "http://s3.example.org"}))
    proxy.refused["*"] = Refusal(404, "NoSuchBucket")
    with pytest.raises(UsageError, match="has no such bucket"):
        launcher.check(JobSpec(Experiment().override({"name": "first", "optim.micro_batch": 1})))
    proxy.refused.clear()
    proxy.asked.clear()
    for number in range(3):
        launcher.check(JobSpec(Experiment().override({"name": f"trial-{number}", "optim.micro_batch": 1})))
    assert proxy.asked.total() == 1


def test_whether_the_bucket_is_there_is_left_to_pods_where_this_machine_cannot_tell(
    settings: PlatformSettings, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for refusal in (DENIED, EXPIRED, UNKNOWN_KEY, MOVED, Refusal(503, "SlowDown")):
        proxy.refused["*"] = refusal
        require_bucket(settings)
    require_bucket(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"}))
    proxy.refused.clear()
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    require_bucket(settings.model_copy(update={"s3_bucket": "no-such-bucket"}))


class Once(dict[str, Refusal]):
    """Each is given once."""

    def get(self, operation: str, default: Refusal | None = None) -> Refusal | None:  # type: ignore[override]
        return self.pop(operation, default)


def test_what_fails_in_passing_is_sent_again_and_training_draws_the_same(
    store: S3Store, proxy: S3Proxy, tmp_path: Path
) -> None:
    file, drawn = tmp_path / "file", random.getstate()
    file.write_bytes(b"some")
    proxy.refused = Once(PutObject=Refusal(503, "SlowDown"))
    store.put(file, "some")
    assert (proxy.asked["PutObject"], store.read("some")) == (2, "some")
    assert random.getstate() == drawn
