"""What a person who asks for a trace gets to see, with a launcher and a folder that play a script."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from everest.errors import EverestError
from everest.profile_files import answers, question
from orchestration import profiling
from orchestration.cli import main
from orchestration.job import JobStatus, Unreachable
from orchestration.profiling import profiled

TRACE = gzip.compress(b'{"traceEvents": []}')


class Folder(dict[str, bytes]):
    """``then`` is done when the question has been looked at so often."""

    def __init__(self, then: Callable[["Folder"], None], after: int = 2) -> None:
        super().__init__()
        self.then, self.after = then, after

    def read(self, name: str) -> bytes | None:
        if name == question(0) and name in self:
            self.after -= 1
            if not self.after:
                self.then(self)
        return self.get(name)

    def write(self, name: str, content: bytes) -> None:
        self[name] = content

    def remove(self, name: str) -> None:
        self.pop(name, None)

    def answer(self, number: int, content: bytes) -> None:
        asked = json.loads(self.pop(question(0)))["id"]
        self[answers(0, asked)[number]] = content


class Launched:
    def __init__(self, folder: Folder, *states: str) -> None:
        self.folder, self.states = folder, [*states]

    def status(self, name: str) -> JobStatus:
        state = self.states.pop(0) if self.states else "running"
        return JobStatus(name, state, datetime.now(UTC), "no room" if state == "pending" else "")  # type: ignore[arg-type]

    def folder_of(self, name: str, rank: int) -> Folder:
        return self.folder


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_LOOK_EVERY_S", 0)


def asked(folder: Folder, *states: str) -> bytes:
    launcher: Any = Launched(folder, *states)
    return profiled(launcher, "mine", rank=0, steps=5)


def away(_: Folder) -> None:
    raise Unreachable("mine-worker-0: container not found")


def test_the_trace_is_taken_away_and_nothing_is_left_behind() -> None:
    folder = Folder(lambda there: there.answer(0, TRACE))
    assert asked(folder) == TRACE
    assert folder == {}


@pytest.mark.parametrize(
    ("then", "states", "line"),
    [
        (lambda there: None, ["pending"], "mine is pending: no room; nothing is profiled"),
        (
            lambda there: None,
            ["running", "running", "succeeded"],
            "mine is succeeded; that was before the trace was th",
        ),
        (away, ["running", "running", "failed"], "mine is failed; that was before the trace was there"),
        (away, [], "mine-worker-0: container not found"),
        (lambda there: there.answer(1, b"2 steps are left"), [], "mine: 2 steps are left"),
        (lambda there: there.clear(), [], "mine: rank 0 has begun again meanwhile; try again"),
        (lambda there: there.answer(0, TRACE[:-3]), [], "came only in part, 3 times; try again"),
        (lambda there: there.answer(0, b""), [], "came only in part, 3 times; try again"),
    ],
)
def test_where_there_is_no_trace_a_line_says_why(then: Any, states: list[str], line: str) -> None:
    with pytest.raises(EverestError, match=line):
        asked(Folder(then), *states)


def test_who_gives_up_takes_the_question_back_and_a_question_of_somebody_else_stays() -> None:
    def interrupted(_: Folder) -> None:
        raise KeyboardInterrupt

    folder = Folder(interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(folder)
    assert folder == {}
    folder[question(0)] = b"another's"
    with pytest.raises(EverestError, match="somebody profiles rank 0 of mine already"):
        asked(folder)
    assert folder == {question(0): b"another's"}


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "trace.json.gz"
    kept.write_bytes(b"kept")
    with pytest.raises(SystemExit) as ended:
        main(["profile", "mine", "--launcher", "local", "--out", str(kept)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"everest-jobs: --out {kept} is there already; choose another\n"
    assert kept.read_bytes() == b"kept"
