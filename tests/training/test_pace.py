"""Where the time goes, by a clock that a test turns."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from everest.config import Experiment
from everest.data.files import VideoFiles
from everest.data.index import VideoIndex
from everest.data.units import Batch
from everest.progress import ProgressBar
from everest.training import pace as module
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest
from everest.training.local import FolderStore, JsonLinesTracker
from everest.training.pace import DataLimit, Pace, remedies
from everest.training.run import run
from everest.training.stragglers import Share
from tests.conftest import tiny

ALONE = Process(0, 1, torch.device("cpu"))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def batches(clock: Clock, waits_s: float, making_s: float) -> Iterator[Batch]:
    while True:
        clock.now += waits_s
        yield Batch(torch.empty(4, 1, 1, 1, 3), torch.zeros(4), [], {}, making_s)


def test_waiting_the_steps_speed_and_the_workers_are_told_apart() -> None:
    """Of 10 s a batch of 4 clips waits 4, and is made in 20 s of one of 3 workers; a picture of 50 s counts nowhere."""
    clock = Clock()
    pace, made = Pace(workers=3, device=ALONE.device, clock=clock), batches(clock, 4, 20)
    for _ in range(2):
        for _ in range(5):
            pace.next(made)
            clock.now += 6
        with pace.paused():
            clock.now += 50
        assert pace.seconds == 50
        assert pace.numbers(ALONE) == pytest.approx({
            "perf/clips_per_s": 20 / 50, "perf/data_wait": 0.4,
            "perf/step_clips_per_s": 20 / 30, "perf/loader_clips_per_s": 3 * 20 / 100,
        })  # fmt: skip


def test_of_several_processes_clips_are_added_and_the_longest_wait_counts() -> None:
    class Three(Process):
        def gather(self, value: tuple[int, float, float, Share]) -> list[tuple[int, float, float, Share]]:
            return [value, (4, 2.0, 0.5, Share(2.0, 0.0)), (4, 4.0, 0.0, Share(0.0, 2.5))]

    clock = Clock()
    pace = Pace(workers=2, device=ALONE.device, clock=clock)
    pace.next(batches(clock, 1, 1))
    clock.now += 0.5
    pace.computed()
    clock.now += 2.5
    assert pace.numbers(Three(0, 3, torch.device("cpu"))) == pytest.approx({
        "perf/clips_per_s": 12 / 4, "perf/data_wait": 0.5,
        "perf/step_clips_per_s": 6, "perf/loader_clips_per_s": 2 * 4 / 1 + 2 * 4 / 2 + 2 * 4 / 4,
        "perf/straggler": 2.5 / 2,
    })  # fmt: skip


def test_that_data_is_the_limit_is_said_after_minutes_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    limit = DataLimit(["more data.workers (2 of 8 cores decode)", "everest data pack"])

    def see(minutes: float, wait: float) -> int:
        numbers = {"perf/data_wait": wait, "perf/step_clips_per_s": 200.0, "perf/loader_clips_per_s": 80.4}
        limit.see(numbers, 60 * minutes)
        return len(caplog.records)

    assert [see(1.5, 0.6), see(0.4, 0.6)] == [0, 0]
    assert [see(1, 0.2), see(1.5, 0.6), see(0.6, 0.6), see(9, 0.9)] == [0, 0, 1, 1]
    assert caplog.messages == [
        "training waits for data 60% of the time: the steps could take 200 clips/s, the workers make 80; "
        "what would help: more data.workers (2 of 8 cores decode), everest data pack"
    ]
    assert [see(5, 0.1), see(2.5, 0.5)] == [1, 2]


def test_what_would_help_is_only_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 8)
    monkeypatch.setattr(module, "worker_count", lambda wanted: 2)
    files = VideoIndex(Path("list.txt"), VideoFiles.of([]), ())
    workers, pack, repeats = (
        "more data.workers (4 of 8 cores decode)",
        "everest data pack",
        "a higher data.repeats (it is 1)",
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert remedies(Experiment(), files) == [workers, pack, repeats]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert remedies(Experiment(), files) == [pack, repeats]
    packed = dataclasses.replace(files, videos=object.__new__(module.PackedVideos))  # type: ignore[type-var]
    assert remedies(Experiment(), packed) == [repeats]


def test_a_run_reports_what_of_its_time_went_to_data(synthetic: Path, tmp_path: Path) -> None:
    config = tiny("pretrain", synthetic, **{"optim.steps": 2, "keep.log_steps": 1, "data.val": None})
    tracker = JsonLinesTracker(tmp_path / "metrics.jsonl")
    run(config, tmp_path, FolderStore(tmp_path / "checkpoints"), tracker, ALONE, StopRequest())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert 0 < line["perf/data_wait"] < 1
        assert line["perf/clips_per_s"] == pytest.approx(line["perf/step_clips_per_s"] * (1 - line["perf/data_wait"]))
        assert line["perf/loader_clips_per_s"] > line["perf/clips_per_s"]  # one process makes them and takes the step


def test_the_progress_line_has_shares_of_time_as_percentages(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("mine", total=8) as bar:
        bar.show({"train/loss": 0.5, "perf/clips_per_s": 17.0, "perf/data_wait": 0.254})
    assert "mine 0/8 loss 0.5 clips/s 17 data_wait 25% " in capsys.readouterr().err
