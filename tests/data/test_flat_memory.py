"""Memory over many clips and epochs: of the training process, its workers and their readers."""

from pathlib import Path

import psutil
import pytest

from everest.data.index import read_index
from everest.data.loader import TrainOrder, evaluation_loader, train_loader
from tests.conftest import pack, tiny

CLIPS, WARM = 20_000, 4_000
MOST_MB = 8  # more than once it was warm, each process

pytestmark = pytest.mark.long


def memory() -> dict[str, float]:
    """MB of every process, by what it is."""
    found = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        kind = "reader" if "everest.data.reader.child" in process.cmdline() else process.name()
        found[f"{kind} {process.pid}"] = process.memory_full_info().uss / 1e6
    return found


def assert_flat(warm: dict[str, float], end: dict[str, float]) -> None:
    print({name: (round(mb, 1), round(end.get(name, 0), 1)) for name, mb in warm.items()})
    for name, mb in end.items():
        assert mb - warm[name] < MOST_MB, name


@pytest.mark.parametrize("packed", [False, True])
def test_over_twenty_thousand_clips_of_training(synthetic: Path, tmp_path: Path, packed: bool) -> None:
    config = tiny("pretrain", synthetic, **{"data.workers": 2, "optim.batch_size": 40, "optim.steps": CLIPS // 40})
    source = pack(synthetic / "train.csv", tmp_path / "packed") if packed else synthetic / "train.csv"
    index = read_index(source)
    clips, warm, end = 0, {}, {}
    for batch in train_loader(index, config, TrainOrder(len(index.videos), config)):
        clips += len(batch.frames)
        if clips == WARM:
            warm = memory()
        if clips == CLIPS - 400:  # while the workers are there
            end = memory()
    assert sum("reader" in name for name in warm) == (0 if packed else 2)
    assert_flat(warm, end)


def test_over_many_validations(synthetic: Path) -> None:
    config = tiny("finetune", synthetic, **{"data.workers": 2})
    index = read_index(synthetic / "val.csv")
    warm: dict[str, float] = {}
    for number in range(60):
        assert sum(len(batch.frames) for batch in evaluation_loader(index, config, 1, 1)) == len(index.videos)
        if number == 10:
            warm = memory()
    assert_flat(warm, memory())
