"""Training goes on while a checkpoint is written."""

import errno
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from everest.config import Experiment
from everest.errors import Superseded
from everest.program import exit_code
from everest.protocols import NullTracker
from everest.training import run as module
from everest.training.checkpoint import Checkpoints
from everest.training.distributed import Process
from everest.training.interrupt import Interrupted, StopRequest
from everest.training.local import FolderStore
from everest.training.loop import Training
from everest.training.saved import all_finite
from tests.conftest import tiny


class Slow(FolderStore):
    """Takes nothing before it is let."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.let, self.asked = threading.Event(), threading.Event()

    def put(self, file: Path, key: str) -> None:
        self.asked.set()
        assert self.let.wait(60)
        super().put(file, key)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    store = Slow(tmp_path / "store")
    yield store
    store.let.set()


@pytest.fixture
def checkpoints(slow: Slow, tmp_path: Path) -> Checkpoints:
    return Checkpoints(slow, tmp_path, keep=5)


def save(checkpoints: Checkpoints, step: int, weights: torch.Tensor) -> None:
    checkpoints.save(step, {"w": weights}, {"optimizer": {"moment": weights}}, {})


def test_what_is_trained_while_a_checkpoint_is_written_does_not_reach_it(slow: Slow, checkpoints: Checkpoints) -> None:
    weights = torch.ones(1000)
    save(checkpoints, 1, weights)
    weights.mul_(7)
    assert slow.asked.wait(60)
    weights.mul_(7)
    assert not slow.list()  # it is not there yet, and this goes on
    slow.let.set()
    checkpoints.finish()
    found = checkpoints.newest()
    assert found is not None
    assert found.weights["w"].unique().tolist() == [1]
    assert found.training["optimizer"]["moment"].unique().tolist() == [1]


def test_the_next_one_waits_until_the_last_is_written(slow: Slow, checkpoints: Checkpoints) -> None:
    """Were it copied earlier, it would be over what is being written."""
    save(checkpoints, 1, torch.full((1000,), 1.0))
    assert slow.asked.wait(60)
    second = threading.Thread(target=save, args=(checkpoints, 2, torch.full((1000,), 2.0)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    slow.let.set()
    second.join()
    checkpoints.finish()
    for step in (1, 2):
        (folder,) = slow.folder.glob(f"step-{step:08d}-*")
        assert torch.load(folder / "training.pt")["optimizer"]["moment"].unique().tolist() == [step]


def test_the_best_is_marked_after_it_is_there(slow: Slow, checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, torch.ones(3))
    checkpoints.mark_best("val/top1", 0.5)
    slow.let.set()
    checkpoints.finish()
    assert '"step-00000001-' in (slow.read("best.json") or "")


class Full(FolderStore):
    def put(self, file: Path, key: str) -> None:
        raise OSError("No space left on device")


CALLS = {
    "check": Checkpoints.check,
    "finish": Checkpoints.finish,
    "save": lambda checkpoints: save(checkpoints, 2, torch.zeros(1)),
    "mark_best": lambda checkpoints: checkpoints.mark_best("val/top1", 0.5),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_went_wrong_meanwhile_is_raised_by_whatever_comes_next_and_nothing_more_is_saved(
    tmp_path: Path, call: str
) -> None:
    store = Full(tmp_path / "store")
    checkpoints = Checkpoints(store, tmp_path, keep=5)
    save(checkpoints, 1, torch.zeros(1))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.finish()
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            CALLS[call](checkpoints)
    assert not store.list()
    assert not list(tmp_path.glob(".checkpoint-*"))


def test_a_check_waits_for_nothing(slow: Slow, checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, torch.zeros(1))
    checkpoints.check()
    assert not slow.list()


def test_a_run_that_ends_by_an_error_leaves_its_last_checkpoint_whole(slow: Slow, checkpoints: Checkpoints) -> None:
    def stop() -> None:
        with checkpoints:
            save(checkpoints, 1, torch.zeros(1))
            threading.Timer(0.2, slow.let.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert checkpoints.newest() is not None


def test_of_two_errors_none_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stop(error: Exception | None) -> None:
        with Checkpoints(Full(tmp_path / "store"), tmp_path, keep=5) as checkpoints:
            save(checkpoints, 1, torch.zeros(1))
            if error:
                raise error

    with pytest.raises(Superseded, match="another process"):
        stop(Superseded("another process"))
    assert "No space left on device; the run will go on from an earlier checkpoint" in caplog.text
    with pytest.raises(OSError, match="No space left"):
        stop(None)


@pytest.mark.parametrize("value", [1e30, -1e30, 6e4])
def test_large_weights_are_finite(value: float) -> None:
    many = torch.full((1000,), value)
    assert all_finite([many, torch.tensor(3), torch.tensor([value]).double()])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_number_that_is_not_finite_is_found_among_many(value: float, dtype: torch.dtype) -> None:
    weights = [torch.ones(100), torch.ones(100, dtype=dtype), torch.full((3,), 1e30)]
    weights[1][70] = value
    assert not all_finite(weights)


class At(NullTracker):
    """Does something after a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step == self.step and "train/loss" in values:
            self.act()


def train(
    config: Experiment,
    folder: Path,
    store: FolderStore,
    tracker: NullTracker | None = None,
    stop: StopRequest | None = None,
) -> None:
    alone = Process(0, 1, torch.device("cpu"))
    module.run(config, folder, store, tracker or NullTracker(), alone, stop or StopRequest())


def steps_in(store: FolderStore) -> list[int]:
    return sorted(int(manifest.parent.name[5:13]) for manifest in store.folder.glob("step-*/manifest.json"))


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_final_figures", lambda *_: None)


@pytest.mark.usefixtures("_undrawn")
def test_a_run_goes_on_while_a_checkpoint_is_written_which_holds_the_weights_of_its_step(
    synthetic: Path, tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[int, dict[str, torch.Tensor]] = {}
    save = Training.save

    def noting(training: Training, step: int) -> None:
        there[step] = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
        save(training, step)

    monkeypatch.setattr(Training, "save", noting)
    config = tiny("pretrain", synthetic, **{"keep.checkpoint_steps": 4, "keep.checkpoints": 3})
    train(config, tmp_path / "run", slow, At(7, slow.let.set))
    assert steps_in(slow) == [*there] == [4, 8, 12]
    for step, weights in there.items():
        (folder,) = slow.folder.glob(f"step-{step:08d}-*")
        saved = load_file(folder / "model.safetensors")
        assert all(torch.equal(saved[name], tensor) for name, tensor in weights.items())


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("step", [3, 12])
def test_what_a_store_refuses_in_the_background_ends_the_run_with_its_line(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    class Refusing(FolderStore):
        def put(self, file: Path, key: str) -> None:
            if key.startswith(f"step-{step:08d}"):
                raise OSError(errno.ENOSPC, "No space left on device", "/there")
            super().put(file, key)

    store = Refusing(tmp_path / "store")
    assert exit_code("everest", lambda: train(tiny("pretrain", synthetic), tmp_path / "run", store)) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "everest: /there: No space left on device"
    assert steps_in(store) == ([] if step == 3 else [6, 9])
    assert not (tmp_path / "run/result.json").exists()
    assert not list((tmp_path / "run").glob(".checkpoint-*"))


@pytest.mark.usefixtures("_undrawn")
def test_a_run_asked_to_stop_while_a_checkpoint_is_written_leaves_that_one_and_its_last_whole(
    synthetic: Path, tmp_path: Path, slow: Slow
) -> None:
    stop = StopRequest()

    def terminate() -> None:
        assert not steps_in(slow)
        stop.signum = signal.SIGTERM
        threading.Timer(0.2, slow.let.set).start()

    with pytest.raises(Interrupted, match="stopped at step 5"):
        train(tiny("pretrain", synthetic), tmp_path / "run", slow, At(5, terminate), stop)
    assert steps_in(slow) == [3, 5]


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, [1, 2, 3, 4]), (1e9, [4]), (None, [4])])
def test_a_checkpoint_is_also_saved_when_some_minutes_have_passed(
    synthetic: Path, tmp_path: Path, minutes: float | None, saved: list[int]
) -> None:
    keep = {"keep.checkpoint_steps": 500, "keep.checkpoint_minutes": minutes, "keep.checkpoints": 9}
    store = FolderStore(tmp_path / "store")
    train(tiny("pretrain", synthetic, **keep, **{"optim.steps": 4}), tmp_path / "run", store)
    assert steps_in(store) == saved
