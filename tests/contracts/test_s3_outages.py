"""A real S3 server that goes away in the middle, comes back, or does not."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from everest.errors import Superseded, UsageError
from everest.training.checkpoint import Checkpoints
from orchestration.outbox import Away, Outbox
from orchestration.s3 import S3Store, s3_client
from orchestration.settings import PlatformSettings
from tests.services import S3, Link, s3_settings, until

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
def checkpoints(store: S3Store, uploads: Outbox, tmp_path: Path) -> Checkpoints:
    made = Checkpoints(store, tmp_path, keep=2, queue=uploads)
    made.take_over(None)
    uploads.flush(300)
    return made


def save(checkpoints: Checkpoints, step: int, megabytes: float = 1) -> None:
    weights = {"w": torch.full((int(megabytes * MB / 4),), float(step))}
    checkpoints.save(step, weights, {"step": step}, {"classes.txt": "a"})
    checkpoints.finish()


def cut_off_in_the_second(checkpoints: Checkpoints, uploads: Outbox, link: Link) -> None:
    """The first checkpoint is whole; of the next, a part is there."""
    save(checkpoints, 1)
    uploads.flush(300)
    save(checkpoints, 2, megabytes=200)
    link.cut_after(80 * MB)


def steps(store: S3Store) -> set[int]:
    return {int(key[5:13]) for key in store.list() if key.endswith("manifest.json")}


def test_a_checkpoint_cut_off_in_the_middle_is_made_up_for(
    store: S3Store, uploads: Outbox, checkpoints: Checkpoints, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoints, 1, megabytes=200)
    link.cut_after(80 * MB)
    until(lambda: "does not answer; going on" in caplog.text, "a line about the outage")
    link.mend()
    uploads.flush(300)
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.weights["w"].unique().tolist()) == (1, [1.0])
    assert json.loads(store.read("latest.json") or "")["checkpoint"] == found.name
    assert not list(checkpoints.scratch.glob(".checkpoint-*"))


def test_saving_never_waits_and_the_disk_holds_two_of_those_that_do(
    store: S3Store, uploads: Outbox, checkpoints: Checkpoints, link: Link
) -> None:
    for step in (1, 2):
        save(checkpoints, step)
        uploads.flush(300)
    checkpoints.mark_best("val/top1", 0.9)
    checkpoints.finish()
    uploads.flush(300)
    link.cut()
    started = time.monotonic()
    for step in range(3, 13):
        save(checkpoints, step)
        checkpoints.mark_best("val/top1", step / 100)
        checkpoints.finish()
    assert time.monotonic() - started < 5
    assert len(list(checkpoints.scratch.glob(".checkpoint-*"))) <= 2
    link.mend()
    uploads.flush(300)
    assert steps(store) == {2, 3, 12}  # the best, the one whose turn it was, and the newest
    assert not list(checkpoints.scratch.glob(".checkpoint-*"))


def test_whenever_a_process_is_killed_there_is_a_whole_checkpoint(
    store: S3Store, settings: PlatformSettings, uploads: Outbox, checkpoints: Checkpoints, link: Link, tmp_path: Path
) -> None:
    """Saved faster than uploaded, with cuts: what a successor finds is never less than what was there before."""
    save(checkpoints, 1)
    uploads.flush(300)
    reader, newest = S3Store(settings.model_copy(update={"s3_endpoint": S3}), "run"), 1
    for step in range(2, 40):
        save(checkpoints, step, megabytes=8)
        if step % 7 == 0:
            link.cut()
        if step % 7 == 2:
            link.mend()
        time.sleep(0.02)
        found = Checkpoints(reader, tmp_path / "reader", keep=2).newest()
        assert found is not None
        assert found.step >= newest
        newest = found.step
    link.mend()
    uploads.flush(300)
    assert max(steps(store)) == 39
    assert len(steps(store)) == 2
    reader.close()


def test_an_outage_longer_than_the_patience_while_something_is_asked_stops_nothing(
    settings: PlatformSettings, link: Link, tmp_path: Path
) -> None:
    """The best is marked while S3 is away: what it asks for first fails again and again, and is made up for."""
    store = S3Store(settings.model_copy(update={"patience_s": 1}), "run")
    uploads = store.uploads()
    checkpoints = Checkpoints(store, tmp_path, keep=2, queue=uploads)
    checkpoints.take_over(None)
    save(checkpoints, 1)
    uploads.flush(300)
    link.cut()
    checkpoints.mark_best("val/top1", 0.5)
    checkpoints.finish()
    time.sleep(4)
    save(checkpoints, 2)
    link.mend()
    uploads.flush(300)
    assert json.loads(store.read("best.json") or "")["value"] == 0.5
    link.cut()
    save(checkpoints, 3)
    started = time.monotonic()
    store.close()
    uploads.close()
    assert time.monotonic() - started < 10


def test_a_server_that_stays_away_is_said_loudly_and_the_files_stay(
    uploads: Outbox, checkpoints: Checkpoints, link: Link
) -> None:
    link.cut()
    save(checkpoints, 1)
    with pytest.raises(Away, match=r"S3 at http.* has not taken what was left for it in 1 s"):
        uploads.flush(1)
    assert [file.name for file in checkpoints.scratch.glob(".checkpoint-*/model.safetensors")]


def test_a_killed_writer_leaves_no_half_checkpoint_and_no_unfinished_upload(
    store: S3Store, settings: PlatformSettings, uploads: Outbox, checkpoints: Checkpoints, link: Link, tmp_path: Path
) -> None:
    cut_off_in_the_second(checkpoints, uploads, link)
    uploads.close()

    link.mend()
    client = s3_client(settings)
    unfinished = client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads", [])
    assert len(unfinished) == 1
    successor = S3Store(settings, "run")
    successor.abort_uploads()
    assert not client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads")
    found = Checkpoints(successor, tmp_path, keep=3).newest()
    assert found is not None
    assert found.step == 1
    assert json.loads(successor.read("latest.json") or "")["checkpoint"] == found.name
    successor.close()


def test_a_process_whose_run_was_taken_over_stops_at_its_next_save(
    settings: PlatformSettings, uploads: Outbox, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    successor = S3Store(settings, "run")
    Checkpoints(successor, tmp_path / "successor", keep=2).take_over(None)
    save(checkpoints, 1)
    with pytest.raises(Superseded, match="another process continues the run in s3://"):
        uploads.flush(300)
    with pytest.raises(Superseded):
        save(checkpoints, 2)
    successor.close()


def test_a_pointer_whose_answer_was_lost_is_recognised_as_ones_own(store: S3Store) -> None:
    """The write arrived, the answer did not: trying again finds the precondition broken by oneself."""
    store.point("latest", "1")
    store.client.put_object(Bucket=store.bucket, Key=store.prefix + "latest", Body=b"2")  # as the lost attempt did
    store.point("latest", "2")
    store.point("latest", "3")
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
        store.list()
    assert "\n" not in str(error.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
    store.close()


def test_a_server_that_is_not_there_at_the_start_is_waited_for_then_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = s3_settings(monkeypatch, "http://127.0.0.1:9", patience_s=1)
    store = S3Store(settings, "run")
    with pytest.raises(Away, match=r"s3://.* was not reached in \d+ s: Could not connect"):
        store.list()
    store.close()


def test_a_store_is_closed_in_the_middle_of_an_upload(
    store: S3Store, uploads: Outbox, checkpoints: Checkpoints, link: Link
) -> None:
    """As when a job is cancelled while S3 does not answer: no error, no wait, nothing half is visible."""
    cut_off_in_the_second(checkpoints, uploads, link)
    store.close()
    uploads.close()
    link.mend()
    reader = S3Store(store.settings, "run")
    assert steps(reader) == {1}
    reader.close()
