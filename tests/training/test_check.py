"""A machine that does not do what it is to do is named before the first step."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from everest.errors import Unfit
from everest.training import check
from everest.training.check import check_machines
from everest.training.distributed import PeerLost, Process

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVEREST_NODE", "node-7")


def spoiled(order: int) -> Tensor:
    matrix = hadamard(order)
    matrix[3, 5] *= -1
    return matrix


hadamard = check._hadamard


def test_a_sound_machine_passes_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    check_machines(Process(0, 1, CPU), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_the_matrix_of_the_check_is_orthogonal_by_numpys_count() -> None:
    matrix = hadamard(64).numpy().astype(int)
    assert set(matrix.flatten().tolist()) == {-1, 1}
    assert (matrix @ matrix == 64 * torch.eye(64, dtype=int).numpy()).all()  # type: ignore[call-overload]


def test_a_device_that_computes_wrongly_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number of 65536 is wrong: 511 sums are."""
    monkeypatch.setattr(check, "_hadamard", spoiled)
    line = (
        r"rank 0 on node-7 failed the check .*: a matrix product in torch.float32 is wrong in 51\d of 65536 places; use"
    )
    with pytest.raises(Unfit, match=line) as raised:
        check_machines(Process(0, 1, CPU), tmp_path)
    assert raised.value.exit_code not in {0, 1, 2}


def test_a_disk_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unfit, match=rf"rank 0 on node-7 failed the check .*: {tmp_path}/file: File exists"):
        check_machines(Process(0, 1, CPU), tmp_path / "file")


def test_whoever_is_not_heard_is_named_and_where_another_is_unfit_this_one_may_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, others = Process(0, 2, CPU), [None]
    monkeypatch.setattr(Process, "gather", lambda _, mine: [mine, *others])
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: None)
    with pytest.raises(Unfit, match="does not have what rank 1 gave"):
        check_machines(process, tmp_path)
    others[:] = ["rank 1 on node-9 failed the check"]  # type: ignore[list-item]
    with pytest.raises(PeerLost, match="rank 1 on node-9 failed the check"):
        check_machines(process, tmp_path)
