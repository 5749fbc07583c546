"""Numbers on their way to MLflow, with a client that writes down what it is sent."""

import json
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Run, RunData, RunInfo

from orchestration.settings import PlatformSettings
from orchestration.tracking.numbers import Numbers


class Client:
    def __init__(self) -> None:
        self.sent: list[tuple[str, int, int]] = []

    def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
        self.sent += [(metric.key, metric.step, metric.timestamp) for metric in metrics]


def run_without_numbers() -> Run:
    info: Any = RunInfo("id", "1", "user", "RUNNING", 0, None, "active")
    return Run(info, RunData())


def test_a_step_of_the_file_that_waits_to_be_sent_too_is_sent_once(tmp_path: Path) -> None:
    client, file = Client(), tmp_path / "metrics.jsonl"
    numbers = Numbers(client, PlatformSettings(), file)
    file.write_text("".join(json.dumps({"step": step, "time": 7, "train/loss": 1.0}) + "\n" for step in (1, 2)))
    for step in (1, 2, 3):
        numbers.add({"train/loss": 1.0}, step)  # at another time, by a millisecond or more
    numbers.take(run_without_numbers())
    while numbers.send():
        pass
    assert [(key, step) for key, step, _ in client.sent] == [("train/loss", step) for step in (1, 2, 3)]
    assert [time for *_, time in client.sent][:2] == [7, 7]
