"""One model, one number: what a run measures in its precision, evaluate and predict find again."""

from pathlib import Path

import pytest
import torch

from everest.cli import main
from everest.config import Experiment
from everest.data.index import read_index
from everest.export import load_model
from everest.model.classifier import Classifier
from everest.predict import Predictor
from everest.training.distributed import Process
from everest.training.evaluate import evaluate
from everest.training.interrupt import StopRequest
from everest.training.local import FolderStore, JsonLinesTracker
from everest.training.precision import autocast, in_bfloat16
from everest.training.run import run
from tests.conftest import tiny

ALONE = Process(0, 1, torch.device("cpu"))


def test_a_run_in_bfloat16_its_evaluation_and_its_predictions_agree(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("finetune", synthetic, **{"optim.precision": "bfloat16", "optim.lr": 0.5, "evaluate.batch_size": 2})
    folder = tmp_path / "run"
    tracker = JsonLinesTracker(folder / "metrics.jsonl")
    measured = run(config, folder, FolderStore(folder / "checkpoints"), tracker, ALONE, StopRequest()).metrics

    monkeypatch.setenv("EVEREST_DEVICE", "cpu")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(folder)])
    assert ended.value.code == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    for name in ("test/top1", "test/top5", "test/loss"):
        assert said[name] == f"{measured[name]:.4g}"

    videos = read_index(synthetic / "val.csv").videos
    predict = Predictor(folder)
    answers = [predict(video.path) for video in videos]
    labels = [predict.classes[video.label] for video in videos if video.label is not None]
    hits = sum(next(iter(answer)) == label for answer, label in zip(answers, labels, strict=True))
    of_labels = torch.tensor([answer[label] for answer, label in zip(answers, labels, strict=True)])
    assert measured["test/top1"] == hits / len(videos)
    assert measured["test/loss"] == pytest.approx(float(-of_labels.log().mean()), rel=1e-6)

    exported = load_model(folder)
    assert isinstance(exported.model, Classifier)
    in_float32 = exported.config.override({"optim.precision": "float32"})
    other = evaluate(exported.model, read_index(synthetic / "val.csv"), in_float32, ALONE, StopRequest(), 2, 1)
    assert abs(other.loss - measured["test/loss"]) > 1e-5 * other.loss  # where the same again is 1e-6


@pytest.mark.parametrize(("avx", "amx"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("wanted", ["auto", "float32", "bfloat16"])
def test_a_cpu_multiplies_bfloat16_where_it_has_instructions_for_it_or_is_told_to(
    avx: bool, amx: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    config, cpu = Experiment().override({"optim.precision": wanted}), torch.device("cpu")
    expected = wanted == "bfloat16" or (wanted == "auto" and (avx or amx))
    assert in_bfloat16(config, cpu) == expected
    with autocast(config, cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if expected else torch.float32)


def test_what_decides_is_what_linux_says_of_this_cpu() -> None:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("no /proc/cpuinfo")
    flags = set(info.read_text().split())
    assert in_bfloat16(Experiment(), torch.device("cpu")) == bool(flags & {"avx512_bf16", "amx_tile"})
