"""What workers hand over: enough room for it, and a line where they cannot."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everest.config import Experiment
from everest.data import shared_memory
from everest.data.index import VideoIndex, read_index
from everest.data.loader import TrainOrder, train_loader
from everest.data.shared_memory import require_shared_memory
from everest.errors import EverestError, UsageError
from tests.conftest import tiny
from tests.integration.command import environment
from tests.services import HANGS_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def index(synthetic: Path) -> VideoIndex:
    return read_index(synthetic / "train.csv")


def experiment(synthetic: Path, **changes: object) -> Experiment:
    return tiny("finetune", synthetic, **{"data.workers": 1, "evaluate.batch_size": 8, **changes})


def test_the_room_that_batches_take_is_counted_and_refused_with_both_numbers(
    synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 clips of training and 8 views of testing, of 4 frames of 32 x 32 pixels; 2 on their way and 2 held, 8 times."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    needed = 8 * 4 * (4 + 8) * 4 * 32 * 32 * 3
    for free, refused in ((needed, False), (needed - 1, True), (None, False)):
        monkeypatch.setattr(shared_memory, "free_shared_memory", lambda free=free: free)
        if not refused:
            require_shared_memory(experiment(synthetic), training=True, testing=True)
            continue
        with pytest.raises(
            UsageError, match=r"5 MB of it \(8 processes with 1 workers\), and 5 MB are free; make it larger"
        ):
            require_shared_memory(experiment(synthetic), training=True, testing=True)
        require_shared_memory(experiment(synthetic), training=True, testing=False)
        require_shared_memory(experiment(synthetic, **{"data.workers": 0}), training=True, testing=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_dies_ends_the_run_with_a_line(
    synthetic: Path, index: VideoIndex, number: signal.Signals
) -> None:
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


_HAND_OVER = """
import sys
from everest.config import Experiment
from everest.data.index import read_index
from everest.data.loader import TrainOrder, train_loader
from everest.errors import EverestError

if __name__ == "__main__":
    config = Experiment.load(sys.argv[1])
    index = read_index(config.data.train)
    try:
        list(train_loader(index, config, TrainOrder(len(index.videos), config)))
    except EverestError as error:
        print(error)
"""


def test_a_small_dev_shm_is_refused_before_the_run_and_noticed_in_it(synthetic: Path, tmp_path: Path) -> None:
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small /dev/shm")
    (tmp_path / "recipe.yaml").write_text(experiment(synthetic).to_yaml())
    (tmp_path / "hand_over.py").write_text(_HAND_OVER)
    for script in (["-m", "everest", "finetune", "--recipe"], [str(tmp_path / "hand_over.py")]):
        done = subprocess.run(
            [*mount, sys.executable, *script, str(tmp_path / "recipe.yaml")],
            capture_output=True, text=True, check=False, cwd=ROOT, timeout=HANGS_S,
            env=environment(tmp_path / "work", PYTHONPATH=str(ROOT)),
        )  # fmt: skip
        if "everest" in script:
            assert done.returncode == 2
            assert done.stderr.startswith("everest: /dev/shm is too small: batches take up to 1 MB of it (1 process")
            assert done.stderr.count("\n") == 1
            assert not (tmp_path / "work").exists()
        else:
            assert done.stdout.startswith("a decoding worker cannot hand over its batch: unable to allocate shared")
            assert done.stdout.count("\n") == 1
            assert "Traceback" not in done.stderr
