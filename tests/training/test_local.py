"""JSON lines: one a step, cut off ones and those past a checkpoint dropped."""

import json
from pathlib import Path

from everest.training.local import JsonLinesTracker


def test_a_resumed_run_drops_lines_past_its_checkpoint_and_one_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tracker = JsonLinesTracker(file)
    tracker.start({}, 0)
    for step in (1, 2, 3):
        tracker.metrics({"train/loss": 1 / step}, step)
    file.write_text(file.read_text() + '{"step": 4, "train/lo')
    JsonLinesTracker(file).start({}, 2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]
