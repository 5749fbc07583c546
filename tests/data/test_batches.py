"""What workers hand over: enough room for it, and a line where they cannot."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everest.config import Experiment
from everest.data import loader, shared_memory
from everest.data.index import VideoIndex, read_index
from everest.data.loader import TrainOrder, train_loader
from everest.data.shared_memory import require_shared_memory
from everest.errors import EverestError, UsageError
from tests.conftest import tiny
from tests.integration.command import environment
from tests.services import HANGS_S

ROOT = Path(__file__).resolve().parents[2]
TESTS = [(1, 1), (2, 1)]


@pytest.fixture(scope="module")
def index(synthetic: Path) -> VideoIndex:
    return read_index(synthetic / "train.csv")


def experiment(synthetic: Path, **changes: object) -> Experiment:
    return tiny("finetune", synthetic, **{"data.workers": 1, "evaluate.batch_size": 8, **changes})


def test_the_room_that_batches_take_is_counted_and_refused_with_both_numbers(
    synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units of 4 clips of training and 8 views of testing, of 4 frames of 32 x 32; 2 ready and 1 held, 8 times."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    needed = 8 * 3 * (4 + 8) * 4 * 32 * 32 * 3
    for free, refused in ((needed, False), (needed - 1, True), (None, False)):
        monkeypatch.setattr(shared_memory, "free_shared_memory", lambda free=free: free)
        if not refused:
            require_shared_memory(experiment(synthetic), training=True, tests=TESTS)
            continue
        with pytest.raises(
            UsageError, match=r"4 MB of it \(8 processes with 1 workers\), and 4 MB are free; make it larger"
        ):
            require_shared_memory(experiment(synthetic), training=True, tests=TESTS)
        require_shared_memory(experiment(synthetic), training=True, tests=[])
        require_shared_memory(experiment(synthetic, **{"data.workers": 0}), training=True, tests=TESTS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_dies_ends_the_run_with_a_line(
    synthetic: Path, index: VideoIndex, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "LOOK_EVERY_S", 0.2)
    config = experiment(synthetic)
    before = set(multiprocessing.active_children())
    batches = iter(train_loader(index, config, TrainOrder(len(index.videos), config)))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.pid
    os.kill(worker.pid, number)
    with pytest.raises(
        EverestError, match=f"a decoding worker was ended by {number.name}; is (the memory|/dev/shm) full"
    ):
        list(batches)


_LOADS = """
import subprocess, sys, time
from everest.config import Experiment
from everest.data.index import read_index
from everest.data.loader import TrainOrder, train_loader
from everest.data.shared_memory import require_shared_memory, free_shared_memory, shared_memory
from everest.errors import EverestError

if __name__ == "__main__":
    config = Experiment.load(sys.argv[1])
    index, empty, most = read_index(config.data.train), free_shared_memory(), 0
    for number, batch in enumerate(train_loader(index, config, TrainOrder(len(index.videos), config))):
        until = time.monotonic() + 300
        while number < 2 and empty - free_shared_memory() < int(sys.argv[2]) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.1)
        most = max(most, empty - free_shared_memory())
    print(most, shared_memory(config, training=True, tests=[]))
    subprocess.run(["mount", "-o", "remount,size=64k", "/dev/shm"], check=True)
    try:
        require_shared_memory(config, training=True, tests=[])
    except EverestError as error:
        print(error)
    try:
        list(train_loader(index, config, TrainOrder(len(index.videos), config)))
    except EverestError as error:
        print(error)
"""


def test_dev_shm_holds_no_more_than_was_counted_and_a_small_one_is_refused_before_the_run_and_noticed_in_it(
    synthetic: Path, tmp_path: Path
) -> None:
    """In units of 4 clips of 4 frames of 64 x 64 pixels: 4 ready, and 2 of a batch while it is joined."""
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small /dev/shm")
    unit = 4 * 4 * 64 * 64 * 3
    changes = {"model.image_size": 64, "optim.batch_size": 8, "data.workers": 2, "optim.epochs": 2}
    (tmp_path / "recipe.yaml").write_text(experiment(synthetic, **changes).to_yaml())
    (tmp_path / "loads.py").write_text(_LOADS)
    done = subprocess.run(
        [*mount, sys.executable, str(tmp_path / "loads.py"), str(tmp_path / "recipe.yaml"), str(4 * unit)],
        capture_output=True, text=True, check=True, timeout=HANGS_S,
        env=environment(tmp_path / "work", PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    used, refused, noticed = done.stdout.splitlines()
    most, counted = map(int, used.split())
    assert counted == 6 * unit
    assert 4 * unit <= most <= counted
    assert refused.startswith("/dev/shm is too small: what workers have ready takes up to 1 MB of it (1 process with 2")
    assert noticed.startswith("a decoding worker cannot hand over its clips: unable to allocate shared")
    assert "Traceback" not in done.stderr
