"""Waiting for a job, with a launcher that plays a script and a clock that does not wait."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from everest.errors import EverestError
from orchestration import watch
from orchestration.job import JobSpec, JobStatus, UnknownJobError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PENDING = JobStatus("job", "pending", NOW, "the image cannot be pulled", hopeless=True)
RUNNING = JobStatus("job", "running", NOW)
AGAIN = JobStatus("job", "restarting", NOW, "the image cannot be pulled", hopeless=True)
DONE = JobStatus("job", "succeeded", NOW)
AWAY = EverestError("the cluster does not answer")


class Script:
    """A launcher of one job, which is as the script says, one entry each time it is asked."""

    def __init__(self, *script: JobStatus | Exception) -> None:
        self.script, self.cancelled = list(script), False

    def status(self, name: str) -> JobStatus:
        entry = self.script.pop(0)
        if isinstance(entry, Exception):
            raise entry
        return entry

    def logs(self, *_: object, **__: object) -> Iterator[str]:
        raise EverestError("no logs: the node does not answer")

    def cancel(self, name: str) -> None:
        self.cancelled = True

    def check(self, spec: JobSpec) -> None: ...
    def submit(self, spec: JobSpec) -> None: ...
    def dry_run(self, spec: JobSpec) -> str:
        return ""

    def list(self) -> Sequence[JobStatus]:
        return []


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(watch.time, "sleep", sleep)
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])


def test_a_job_that_cannot_start_is_removed_after_a_while() -> None:
    script = Script(*[PENDING] * 20)
    with pytest.raises(watch.JobFailed, match="job cannot start: the image cannot be pulled; it is removed"):
        watch.wait(script, "job")
    assert script.cancelled
    assert len(script.script) < 10


def test_a_job_that_has_run_is_never_removed_whatever_hinders_its_restart() -> None:
    script = Script(RUNNING, *[AGAIN] * 100, RUNNING, DONE)
    assert watch.wait(script, "job") == DONE
    assert not script.cancelled


def test_a_cluster_that_does_not_answer_for_a_minute_is_asked_again() -> None:
    assert watch.wait(Script(RUNNING, *[AWAY] * 30, RUNNING, DONE), "job") == DONE
    with pytest.raises(EverestError, match="does not answer"):
        watch.wait(Script(RUNNING, *[AWAY] * 100), "job")


def test_a_job_cancelled_elsewhere_ends_the_waiting() -> None:
    with pytest.raises(watch.JobFailed, match="job was cancelled"):
        watch.wait(Script(RUNNING, UnknownJobError("no job")), "job")


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "5s"), (65, "1m"), (3 * 3600 + 300, "3h05m"), (2 * 86400 + 4 * 3600, "2d04h")]
)
def test_ages_are_short(seconds: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        @staticmethod
        def now(_: Any) -> datetime:
            return datetime.fromtimestamp(NOW.timestamp() + seconds, UTC)

    monkeypatch.setattr(watch, "datetime", Clock)
    assert watch.age(RUNNING) == said


@pytest.mark.parametrize(("replaced", "removed", "code"), [(False, True, 2), (True, False, 1)])
def test_a_job_whose_pods_were_replaced_is_not_removed_as_started_wrongly(
    replaced: bool, removed: bool, code: int
) -> None:
    class Told(Script):
        def logs(self, *_: object, **__: object) -> Iterator[str]:
            return iter(["[rank 0] everest: S3 bucket everest: ExpiredToken"])

    script = Told(RUNNING, JobStatus("job", "failed", NOW, "code 2", exit_code=2, replaced=replaced))
    with pytest.raises(watch.JobFailed) as failed:
        watch.wait(script, "job")
    assert (script.cancelled, failed.value.exit_code) == (removed, code)
