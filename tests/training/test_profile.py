"""Steps that somebody asks to see: exactly those, of this process, while the run goes on as it would."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from everest.files import write_text
from everest.profile_files import answers, question
from everest.training import profile
from everest.training.distributed import Process
from everest.training.profile import Profile
from tests.conftest import tiny
from tests.training.test_run import ALONE, assert_same, start, weights


def ask(folder: Path, steps: object, rank: int = 0) -> tuple[Path, Path]:
    """What may answer."""
    write_text(folder / question(rank), json.dumps({"id": "1f3a", "steps": steps}))
    trace, refusal = answers(rank, "1f3a")
    return folder / trace, folder / refusal


def events(trace: Path) -> list[dict[str, Any]]:
    return list(json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"])


def test_a_trace_is_of_so_many_whole_steps_and_the_run_ends_with_the_same_weights(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("pretrain", synthetic)
    start(config, tmp_path / "alone")
    monkeypatch.setattr(profile, "_LOOK_EVERY_S", 0)
    trace, refusal = ask(tmp_path / "seen", 3)
    start(config, tmp_path / "seen")
    found = events(trace)
    steps = sorted((each["ts"], each["ts"] + each["dur"]) for each in found if each["name"].startswith("ProfilerStep#"))
    updates = [each["ts"] for each in found if each["name"] == "Optimizer.step#AdamW.step"]
    assert [sum(began <= at < ended for at in updates) for began, ended in steps] == [1, 1, 1]
    assert len(updates) == 3
    assert not refusal.exists()
    assert sorted(trace.parent.iterdir()) == [trace]  # the question is gone, nothing half written is left
    assert_same(weights(tmp_path / "seen"), weights(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (9, "9 steps of the run are left; 9, and one before them, do not fit"),
        ("many", "invalid literal for int() with base 10: 'many'"),
    ],
)
def test_what_cannot_be_profiled_is_a_line_and_the_run_goes_on(tmp_path: Path, steps: object, line: str) -> None:
    trace, refusal = ask(tmp_path, steps)
    assert list(Profile(tmp_path, ALONE).over(range(2, 12))) == list(range(2, 12))
    assert refusal.read_text() == line
    assert not trace.exists()
    assert not (tmp_path / question(0)).exists()


def test_each_process_heeds_its_own_question_and_looks_for_it_once_a_second(tmp_path: Path) -> None:
    now = [0.0]
    third = Profile(tmp_path, Process(3, 4, torch.device("cpu")), clock=lambda: now[0])
    steps = third.over(range(4))
    assert [next(steps), next(steps)] == [0, 1]
    _, other = ask(tmp_path, 9, rank=2)
    _, refusal = ask(tmp_path, 9, rank=3)
    now[0] = 0.9
    assert next(steps) == 2
    assert not refusal.exists()
    now[0] = 1.1
    assert next(steps) == 3
    assert refusal.exists()
    assert not other.exists()
