"""A video that hangs or kills its reader is unreadable, and the next one is read."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from everest.data.decode import DecodeError, decode
from everest.data.reader.process import reader
from everest.data.reader.wire import Wire
from tests.data import numbered
from tests.services import HANGS_S


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return numbered.write(tmp_path / "video.mp4", "libx264", range(5))


def reading_is_hit(by: signal.Signals) -> Callable[[int], np.ndarray]:
    """The reader is stopped or killed in the middle of a video, as native code can do to it."""

    def choose(total: int) -> np.ndarray:
        os.kill(reader().process.pid, by)
        return np.arange(total)

    return choose


def test_a_video_that_hangs_is_unreadable_after_the_time_limit(video: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DecodeError, match=r"reading it took longer than 0.5 s \(data.time_limit\)"):
        decode(video, 32, reading_is_hit(signal.SIGSTOP), time_limit=0.5)
    assert time.monotonic() - began < 60
    assert len(decode(video, 32, np.arange)) == 5


def test_a_video_that_crashes_its_reader_is_unreadable(video: Path) -> None:
    with pytest.raises(DecodeError, match=r"reading it crashed \(signal 11\)"):
        decode(video, 32, reading_is_hit(signal.SIGSEGV))
    assert len(decode(video, 32, np.arange)) == 5


def test_a_reader_that_died_meanwhile_costs_no_video(video: Path) -> None:
    decode(video, 32, np.arange)
    process = reader().process
    process.kill()
    process.wait()
    assert len(decode(video, 32, np.arange)) == 5


def test_a_reader_outlives_ctrl_c_and_ends_with_the_process_that_asks(video: Path) -> None:
    asks = (
        "import sys, time, numpy; from pathlib import Path; from everest.data.decode import decode\n"
        "from everest.data.reader.process import reader\n"
        f"decode(Path({str(video)!r}), 32, numpy.arange); print(reader().process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        child = psutil.Process(int(asking.stdout.readline()))
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        with pytest.raises(psutil.TimeoutExpired):
            child.wait(timeout=0.3)
        asking.kill()
    child.wait(timeout=HANGS_S)


def framed(content: bytes) -> bytes:
    return struct.pack("!Q", len(content)) + content


@pytest.mark.parametrize(
    "begun",
    [
        b"\0\0",
        struct.pack("!Q", 1000),
        struct.pack("!Q", 1000) + b'{"unread',
        framed(b'{"shape": [1, 5, 32, 42, 3]}'),
        framed(b'{"shape": [1, 5, 32, 42, 3]}') + struct.pack("!Q", 5 * 32 * 42 * 3) + bytes(1000),
    ],
    ids=["length", "no word", "word", "no pixels", "pixels"],
)
def test_a_reader_that_stalls_in_the_middle_of_a_message_is_cut_off(video: Path, begun: bytes) -> None:
    """It says so much and no more, and is alive all the time."""
    decode(video, 32, np.arange)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader().wire = Wire(ours)
        theirs.sendall(begun)
        began = time.monotonic()
        with pytest.raises(DecodeError, match=r"reading it took longer than 0.5 s \(data.time_limit\)"):
            decode(video, 32, np.arange, time_limit=0.5)
        assert time.monotonic() - began < HANGS_S
    assert len(decode(video, 32, np.arange)) == 5


def test_a_reader_that_stalls_while_it_sends_pixels_is_cut_off(tmp_path: Path) -> None:
    """They are more than fit between the two processes, and the reader is stopped as they come."""
    video = numbered.write(tmp_path / "video.mp4", "libx264", range(5))
    decode(video, 32, np.arange)
    wire, receive_into = reader().wire, reader().wire.receive_into

    def stopped(data: memoryview) -> None:
        os.kill(reader().process.pid, signal.SIGSTOP)
        receive_into(data)

    wire.receive_into = stopped  # type: ignore[method-assign]
    with pytest.raises(DecodeError, match=r"reading it took longer than 1 s"):
        decode(video, 1080, np.arange, time_limit=1)
    assert len(decode(video, 32, np.arange)) == 5


def test_a_reader_that_reads_no_question_is_cut_off(video: Path) -> None:
    def choose(total: int) -> np.ndarray:
        os.kill(reader().process.pid, signal.SIGSTOP)
        return np.arange(500_000)

    with pytest.raises(DecodeError, match=r"reading it took longer than 0.5 s"):
        decode(video, 32, choose, time_limit=0.5)
    assert len(decode(video, 32, np.arange)) == 5


def test_what_a_choice_raises_reaches_the_caller(video: Path) -> None:
    def choose(total: int) -> np.ndarray:
        raise KeyError(total)

    with pytest.raises(KeyError, match="5"):
        decode(video, 32, choose)
    assert len(decode(video, 32, np.arange)) == 5
