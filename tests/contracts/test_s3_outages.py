"""A real S3 server that goes away in the middle, comes back, or does not."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from everest.errors import UsageError
from everest.training.checkpoint import Checkpoints
from orchestration.outbox import Away
from orchestration.settings import PlatformSettings
from orchestration.storage import S3Store, s3_client
from tests.services import S3, Link, s3_settings

MB = 2**20


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link(S3)
    yield link
    link.close()


@pytest.fixture
def settings(link: Link, monkeypatch: pytest.MonkeyPatch) -> PlatformSettings:
    return s3_settings(monkeypatch, link.address)


@pytest.fixture
def store(settings: PlatformSettings, tmp_path: Path) -> Iterator[S3Store]:
    store = S3Store(settings, "run", tmp_path / "spool")
    store.open()
    yield store
    store.close()


def big(path: Path, megabytes: int = 160) -> bytes:
    content = os.urandom(megabytes * MB)
    path.write_bytes(content)
    return content


def test_an_upload_cut_in_the_middle_is_made_up_for(
    store: S3Store, link: Link, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = big(tmp_path / "file")
    store.put(tmp_path / "file", "step/model")
    store.point("latest", "step")
    link.cut_after(80 * MB)
    assert "step/model" in store.list()
    time.sleep(1)
    link.mend()
    store.flush(60)
    assert "does not answer; going on" in caplog.text
    store.get("step/model", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert store.read("latest") == "step"
    assert not list((tmp_path / "spool").iterdir())


def test_nothing_waits_for_a_server_that_is_away_and_only_what_is_wanted_is_uploaded(
    store: S3Store, link: Link, settings: PlatformSettings, tmp_path: Path
) -> None:
    """Ten checkpoints are saved meanwhile: those no longer kept never leave this machine, nor fill its disk."""
    checkpoints = Checkpoints(store, tmp_path, keep=2)
    checkpoints.take_over(None)
    store.flush(20)
    link.cut()
    started = time.monotonic()
    for step in range(1, 11):
        checkpoints.save(step, {"w": torch.full((MB,), float(step))}, {}, {"classes.txt": "a"})
    assert time.monotonic() - started < 5
    assert sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()) < 4 * (4 * MB + 10_000)
    link.mend()
    store.flush(60)
    later = S3Store(settings, "run")
    later.open()
    assert {key[:13] for key in later.list() if "/" in key} == {"step-00000009", "step-00000010"}
    found = Checkpoints(later, tmp_path, keep=2).newest()
    assert found is not None
    assert found.weights["w"][0] == 10
    later.close()


def test_a_server_that_stays_away_is_said_loudly_and_the_files_stay(store: S3Store, link: Link, tmp_path: Path) -> None:
    link.cut()
    (tmp_path / "file").write_text("x")
    store.put(tmp_path / "file", "a")
    with pytest.raises(Away, match=r"S3 at http.* has not taken what was left for it in 1 s"):
        store.flush(1)
    assert [file.read_text() for file in (tmp_path / "spool").iterdir()] == ["x"]


def test_a_killed_writer_leaves_no_half_checkpoint_and_no_unfinished_upload(
    store: S3Store, link: Link, settings: PlatformSettings, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(store, tmp_path, keep=3)
    checkpoints.take_over(None)
    checkpoints.save(1, {"w": torch.ones(1)}, {}, {})
    store.flush(20)
    checkpoints.save(2, {"w": torch.rand(40 * MB)}, {}, {})
    link.cut_after(80 * MB)
    store.close()

    client = s3_client(settings)
    link.mend()
    unfinished = client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads", [])
    assert len(unfinished) == 1
    successor = S3Store(settings, "run", tmp_path / "spool2")
    successor.open()
    assert not client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads")
    found = Checkpoints(successor, tmp_path, keep=3).newest()
    assert found is not None
    assert found.step == 1
    assert json.loads(successor.read("latest.json") or "")["checkpoint"] == found.name
    successor.close()


def test_a_pointer_whose_answer_was_lost_is_recognised_as_ones_own(store: S3Store) -> None:
    """The write arrived, the answer did not: trying again finds the precondition broken by oneself."""
    store.point("latest", "1")
    store.flush(20)
    store._client.put_object(Bucket=store.bucket, Key=store.prefix + "latest", Body=b"2")  # as the lost attempt did
    store.point("latest", "2")
    store.flush(20)
    store.point("latest", "3")
    store.flush(20)
    assert store.read("latest") == "3"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("s3_bucket", "no-such-bucket", r"S3 bucket no-such-bucket at http.*: NoSuchBucket: "),
        ("AWS_SECRET_ACCESS_KEY", "wrong", r"S3 bucket .*: SignatureDoesNotMatch: .*key of the Secret"),
        ("AWS_ACCESS_KEY_ID", "nobody", r"S3 bucket .* at http.*key of the Secret"),
    ],
)
def test_not_being_let_in_is_one_line_that_names_the_settings_and_not_the_secret(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, said: str
) -> None:
    settings = s3_settings(monkeypatch)
    if setting.startswith("AWS"):
        monkeypatch.setenv(setting, value)
    else:
        settings = settings.model_copy(update={setting: value})
    store = S3Store(settings, "run")
    with pytest.raises(UsageError, match=said) as error:
        store.open()
    assert "\n" not in str(error.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
    store.close()


def test_a_server_that_is_not_there_at_the_start_is_waited_for_then_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = s3_settings(monkeypatch, "http://127.0.0.1:9", patience_s=1)
    store = S3Store(settings, "run")
    with pytest.raises(Away, match=r"s3://.* was not reached in \d+ s: Could not connect"):
        store.open()
    store.close()
