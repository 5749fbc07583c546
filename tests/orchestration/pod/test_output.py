"""What real processes say comes out line by line, and who says much waits for nobody."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.pod.backlog import Backlog
from orchestration.pod.output import Output
from tests.services import HANGS_S

LINES = 200_000
STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "

_POD = """
import logging, os, subprocess, sys
from pathlib import Path
from orchestration.pod.output import Output
with Output(lambda text: text.replace(b"planted", b"***")) as output:
    print("from Python", flush=True)
    subprocess.run(["sh", "-c", "echo from a child >&2; printf 'no end'"])
    print("planted", file=sys.stderr)
    with output.pipe(Path(sys.argv[1]) / "says", "[rank 7] "):
        subprocess.run(["sh", "-c", f"exec > {sys.argv[1]}/says; echo plan''ted; printf '\\\\377bytes\\\\rmore'"])
print("after")
"""


def test_each_line_is_passed_on_with_its_time_whoever_says_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _POD, tmp_path], capture_output=True, check=True, timeout=HANGS_S
    )  # fmt: skip
    *lines, after = done.stdout.splitlines(keepends=True)
    assert after == b"after\n"
    texts = [re.fullmatch(STAMP + rb"(.*)\n", line, re.DOTALL)[1] for line in re.findall(rb".*\n", b"".join(lines))]  # type: ignore[index]
    assert sorted(texts) == sorted(
        [b"from Python", b"from a child", b"no end***", b"[rank 7] ***", b"[rank 7] \xffbytes\rmore"]
    )
    stamps = [line[:27] for line in re.findall(rb".*\n", b"".join(lines))]
    assert stamps == sorted(set(stamps))


def test_two_hundred_thousand_lines_of_a_process_all_arrive_in_order(tmp_path: Path) -> None:
    with Output() as output, (tmp_path / "passed").open("wb") as passed:
        os.dup2(passed.fileno(), output._out)
        says = f"for number in range({LINES}): print('line', number)"
        child = subprocess.Popen([sys.executable, "-c", says], stdout=subprocess.PIPE)
        assert child.stdout
        with child.stdout, output.listening(child.stdout.fileno(), "[rank 0] "):
            child.wait()
    expected = [b"[rank 0] line %d" % number for number in range(LINES)]
    kept = output.kept.take(2**30)
    assert [line.split(b" ", 1)[1].rstrip() for line in kept] == expected
    assert (tmp_path / "passed").read_bytes() == b"".join(kept)


@pytest.mark.parametrize("where", ["/dev/full", "a pipe that nobody reads"])
def test_an_output_that_takes_nothing_stops_no_process_and_costs_no_kept_line(where: str) -> None:
    says = "import sys\nfor number in range(50000): print('line', number)"
    pod = f"""
import os, subprocess, sys
from orchestration.pod import output
output._LAST_WORDS_S = 0.5
with output.Output() as made:
    child = subprocess.Popen([sys.executable, "-c", {says!r}], stdout=subprocess.PIPE)
    with child.stdout, made.listening(child.stdout.fileno(), "[rank 0] "):
        assert child.wait() == 0
sys.stderr.write(str(len(made.kept)))
os._exit(0)
"""
    unread = os.pipe()
    target = unread[1] if where != "/dev/full" else os.open(where, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-c", pod], stdout=target, stderr=subprocess.PIPE, check=True, timeout=HANGS_S
    )  # fmt: skip
    assert done.stderr == b"50000"
    for descriptor in {*unread, target}:
        os.close(descriptor)


def test_where_too_many_lines_wait_the_oldest_are_lost_and_counted_for_who_said_them() -> None:
    backlog = Backlog(most=3000)
    said = [b"%026d [rank %d] line %d\n" % (number, number % 2, number) for number in range(200)]
    backlog.add(said)
    zero, one, *left = backlog.take(2**20)
    assert left == said[-len(left) :]
    assert sum(map(len, left)) <= 3000 < sum(map(len, left)) + len(said[0]) + 1
    lost = [int(re.search(rb"WARNING (\d+) lines are lost", notice)[1]) for notice in (zero, one)]  # type: ignore[index]
    assert sum(lost) == 200 - len(left)
    assert {notice[27:35] for notice in (zero, one)} == {b"[rank 0]", b"[rank 1]"}
    assert backlog.take(2**20) == []


def test_a_line_without_end_is_cut_without_uncovering_what_is_hidden(tmp_path: Path) -> None:
    secret = b"0123456789abcdef"
    with Output(lambda text: text.replace(secret, b"***")) as output, output.pipe(tmp_path / "says", "") as _:
        writer = os.open(tmp_path / "says", os.O_WRONLY)
        for _ in range(2**17 + 999):
            os.write(writer, secret)
        os.close(writer)
        time.sleep(0)
    kept = b"".join(line.split(b" ", 1)[1].rstrip(b"\n") for line in output.kept.take(2**30))
    assert kept == b"***" * (2**17 + 999)
