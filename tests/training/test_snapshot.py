"""Copies of what training goes on to change."""

import pickle

import torch

from everest.training.saved import Checkpoint
from everest.training.snapshot import Snapshot


def test_what_is_changed_later_is_not_changed_in_the_copy() -> None:
    weights = {"w": torch.ones(3)}
    state = {"state": {0: {"step": torch.tensor(4.0)}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.95)}], "best": None}
    taken = Snapshot().take((weights, state))
    weights["w"].mul_(2)
    state["state"][0]["step"].add_(1)  # type: ignore[index]
    assert taken[0]["w"].tolist() == [1, 1, 1]
    assert taken[1] == state | {"state": {0: {"step": torch.tensor(4.0)}}}


def test_copies_are_made_in_the_same_memory_each_time() -> None:
    snapshot = Snapshot()
    first = snapshot.take({"w": torch.zeros(3), "grown": torch.zeros(1)})
    second = snapshot.take({"w": torch.ones(3), "grown": torch.ones(2)})
    assert second["w"].data_ptr() == first["w"].data_ptr()
    assert [second["w"].tolist(), second["grown"].tolist()] == [[1, 1, 1], [1, 1]]


def test_a_part_of_a_tensor_is_copied_alone_and_in_order() -> None:
    """A checkpoint holds what it names, and not the storage that this is a part of."""
    whole = torch.arange(12.0).reshape(3, 4)
    taken = Snapshot().take([whole.T, whole[1]])
    assert [copy.is_contiguous() for copy in taken] == [True, True]
    assert taken[0].tolist() == whole.T.tolist()
    assert taken[1].untyped_storage().nbytes() == 16


def test_what_all_processes_are_told_of_a_checkpoint_is_small_however_large_it_is() -> None:
    state = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(1000, 1000)}}}, "latest": {"train/loss": 0.5}}
    checkpoint = Checkpoint("step-00000001-00000000", 1, {"w": torch.zeros(1000, 1000)}, state, {"text": "x" * 10**6})
    sent = pickle.dumps(checkpoint.outline())
    assert len(sent) < 2000
    received = pickle.loads(sent).training
    assert received["latest"] == {"train/loss": 0.5}
    shape = received["optimizer"]["state"][0]["exp_avg"]
    assert (shape.shape, shape.dtype, shape.device.type) == ((1000, 1000), torch.float32, "meta")
