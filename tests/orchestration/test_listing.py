"""Which run belongs to which job, what is said of it, and how much of it fits into a line."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from orchestration.job import JobStatus
from orchestration.listing import Row, progressed, rows, table
from orchestration.tracking.runs import Measured, Seen

NOW = datetime(2026, 1, 8, tzinfo=UTC)


def at(hours: float) -> datetime:
    return NOW - timedelta(hours=24 - hours)


def job(name: str, created: float, state: str = "running") -> JobStatus:
    return JobStatus(name, state, at(created), user="ann", nodes=("node-3",))  # type: ignore[arg-type]


def run(name: str, began: float, ended: float | None, step: int = 250, status: str = "FINISHED") -> Seen:
    latest = {"train/loss": Measured(step, 0.5), "train/epoch": Measured(step, step / 100)}
    speeds = {"perf/clips_per_s": Measured(step, 64.0), "perf/data_wait": Measured(step, 0.25)}
    parameters = {"optim.epochs": "10", "optim.steps": "None", "optim.batch_size": "128"}
    status = status if ended else "RUNNING"
    return Seen(name, "ann", "node-3", status, at(began), at(ended) if ended else None, latest | speeds, parameters, "")


def test_a_jobs_numbers_are_of_the_run_that_it_does_and_no_older_one() -> None:
    runs = [run("continued", 1, None, 70), run("continued", 0.5, 0.9, 999), run("again", 1, 2, 30)]
    jobs = [job("continued", 20), job("again", 21, "pending"), job("done", 10, "succeeded")]
    found = {row.job: row.step for row in rows(jobs, [*runs, run("done", 10.1, 12, 80)], past=None)}
    assert found == {"continued": 70, "again": None, "done": 80}


def test_history_has_each_run_that_no_job_does_and_how_it_ended() -> None:
    runs = [
        run("mine", 5, None),
        run("mine", 1, 2, status="FAILED"),
        run("stopped", 3, 4, status="KILLED"),
        run("done", 2, 3),
        run("nobody-knows", 4, None),
    ]
    found = rows([job("mine", 5)], runs, past=at(0))
    assert [(row.job, row.state, row.gone) for row in found] == [
        ("mine", "running", False),
        ("nobody-knows", "unknown", True),
        ("stopped", "interrupted", True),
        ("done", "succeeded", True),
        ("mine", "failed", True),
    ]
    assert rows([job("mine", 5)], runs, past=None) == found[:1]
    assert rows([job("mine", 5)], runs, past=at(3)) == found[:4]


@pytest.mark.parametrize("steps", ["None", "1200"])
def test_the_steps_of_all_and_the_time_left_follow_from_what_the_run_has_reported(steps: str) -> None:
    """250 of 10 epochs of 100 steps, or of 1200; each takes 128 clips, at 64 a second."""
    seen = run("mine", 1, None)
    seen = seen._replace(parameters={**seen.parameters, "optim.steps": steps})
    row = progressed(Row("mine", "running", "ann", NOW, ()), seen)
    whole = 1000 if steps == "None" else 1200
    assert (row.step, row.steps, row.left_s) == (250, whole, (whole - 250) * 2)
    assert (row.data_wait, row.loss) == (0.25, 0.5)
    assert progressed(replace(row, state="failed", left_s=None), seen).left_s is None


def test_a_job_whose_gpus_idle_is_shown_as_such_also_before_its_first_step() -> None:
    idle = run("mine", 1, None)._replace(idle="the 8 GPUs of node-3 idled: 0.2 % busy over 1h00m", latest={})
    (row,) = rows([job("mine", 1)], [idle], past=None)
    screen = StringIO()
    Console(file=screen, width=120).print(table([row], NOW))
    assert "running, idle" in screen.getvalue()


def test_a_line_of_long_names_and_large_numbers_fits_into_120_characters_and_the_last_step_alone_is_all() -> None:
    row = Row(
        "ucf101-pretrain", "restarting", "a.lovelace", at(1), ("gpu-node-17", "gpu-node-18"), step=159_999,
        steps=160_000, left_s=90_000, data_wait=0.05, loss=0.98765, gpu_hours=1234.5, cost=3086.25,
    )  # fmt: skip
    screen = StringIO()
    Console(file=screen, width=120).print(table([row, Row("new", "pending", "", NOW, ())], NOW))
    title, line, new = (each.rstrip() for each in screen.getvalue().splitlines())
    assert " ".join(title.split()) == "JOB STATE USER AGE STEP DONE LEFT WAIT LOSS GPU HOURS COST NODE"
    assert " ".join(line.split()).startswith(
        "ucf101-pretrain restarting a.lovelace 23h00m 159999/160000 99% 1d01h 5% 0.9877 1234.50 3086.25 gpu-no"
    )
    assert new.split() == ["new", "pending", "-", "0s", *"--------"]
