"""What a process of a job ends with."""

from typing import NoReturn

import pytest

from everest.errors import EverestError, Superseded, UsageError
from orchestration.job import AGAIN, FAULTY
from orchestration.pod import rank


@pytest.mark.parametrize(
    ("error", "elastic", "code"),
    [
        (Superseded("another process continues the run"), False, 1),
        (Superseded("another process continues the run"), True, AGAIN),
        (EverestError("the disk is full"), True, 1),
        (UsageError("no such list"), True, 2),
        (KeyError("a mistake"), False, AGAIN),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False, FAULTY),
    ],
)
def test_only_a_pod_that_may_have_been_cut_off_from_its_job_begins_anew_where_another_writes(
    monkeypatch: pytest.MonkeyPatch, error: Exception, elastic: bool, code: int
) -> None:
    def fail(_: object) -> NoReturn:
        raise error

    monkeypatch.setenv("RANK", "0")
    if elastic:
        monkeypatch.setenv("EVEREST_NODES", "2..4")
    monkeypatch.setattr(rank, "_train", fail)
    monkeypatch.setattr(rank, "start_logging", lambda _: None)
    assert rank.run_rank() == code
