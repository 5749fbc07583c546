"""Lines of a log: what they say of themselves, which start they belong to, how several sources become one."""

from datetime import UTC, datetime, timedelta

import pytest

from everest.errors import UsageError
from orchestration.log import Line, Numbered, Piece, Starts, Wanted, in_order, since, stamp

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def at(second: float) -> str:
    return stamp(NOON + timedelta(seconds=second))


def line(second: float, pod: int = 0, rank: int | None = 0, text: str = "x") -> Line:
    return Line(at(second), pod, rank, text)


def test_a_line_says_when_and_who_and_one_without_a_time_is_a_line_too() -> None:
    assert Line.parse("2026-11-27T12:00:00.000001Z [rank 3] a [rank 4] b", 1) == (
        at(1e-6),
        1,
        3,
        "[rank 3] a [rank 4] b",
    )
    assert Line.parse("[rank 3] a", 0) == ("", 0, 3, "[rank 3] a")
    assert Line.parse("2026-11-27T12:00:00Z a", 0) == ("", 0, None, "2026-11-27T12:00:00Z a")
    assert Line.parse("", 0) == ("", 0, None, "")


def test_only_what_has_no_rank_begins_a_start() -> None:
    assert Line.parse("--- start: mine-worker-0", 0).begins
    assert not Line.parse("[rank 0] --- start: mine-worker-0", 0).begins


def test_keys_of_pieces_sort_as_they_were_said_and_others_are_none() -> None:
    pieces = [
        Piece(at(second), pod, rank, number)
        for second in (0, 0.5, 86400) for pod in (0, 2) for rank in (None, 3, 20) for number in (1, 2, 10)
    ]  # fmt: skip
    assert [Piece.parse(piece.key) for piece in pieces] == pieces
    assert sorted(piece.key for piece in pieces) == [piece.key for piece in pieces]
    for other in ("logs/x", pieces[0].key + ".part", "logs/../" + pieces[0].key, "starts/0.json"):
        assert Piece.parse(other) is None


def test_a_line_belongs_to_the_last_start_of_its_pod_before_it() -> None:
    starts = Starts([Piece(at(0), 0, None, 1), Piece(at(0), 0, 3, 1), Piece(at(1), 1, None, 1), Piece(at(60), 0, 0, 1)])
    assert [starts.number(0, at(second)) for second in (-1, 0, 59, 60, 99)] == [1, 1, 1, 2, 2]
    assert starts.number(1, at(99)) == 1
    assert starts.numbered(line(70, rank=None, text="--- start: here")).text == "--- start 3: here"
    assert (starts.number(0, at(99)), len(starts)) == (3, 3)
    Wanted(start=3).require("mine", starts)
    for start in (0, 4):
        with pytest.raises(UsageError, match=f"--restart {start}: mine has the starts 1 to 3"):
            Wanted(start=start).require("mine", starts)


def test_sources_become_one_in_order_with_each_line_once() -> None:
    kept = [Numbered(1, line(0)), Numbered(1, line(2)), Numbered(2, line(5))]
    other = [Numbered(1, line(1, pod=1, rank=8)), Numbered(1, line(6, pod=1, rank=8))]
    live = [Numbered(1, line(2)), Numbered(2, line(5)), Numbered(2, line(7))]
    found = [(said.start, said.line.moment, said.line.pod) for said in in_order(kept, other, live)]
    assert found == [
        (1, at(0), 0), (1, at(1), 1), (1, at(2), 0), (2, at(5), 0), (1, at(6), 1), (2, at(7), 0)
    ]  # fmt: skip


def test_since_is_so_long_ago_or_a_time() -> None:
    for said, ago in {"90s": 90, "10m": 600, "2h": 7200, "3d": 259200}.items():
        moment = datetime.fromisoformat(since(said))
        assert abs(datetime.now(UTC) - moment - timedelta(seconds=ago)) < timedelta(minutes=5)
    assert since("2026-11-27T13:00+01:00") == at(0)
    assert datetime.fromisoformat(since("2026-11-27")).astimezone().hour == 0
    for wrong in ("yesterday", "10", "-5m", "10 m"):
        with pytest.raises(UsageError, match=r"--since '.*': must be 90s, 10m, 2h, 3d or a time"):
            since(wrong)
