"""What an index of a million videos costs: memory of each process, and time until a worker has it."""

import json
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from everest.config import Experiment
from everest.data.files import VideoFiles
from everest.data.index import VideoIndex, read_index
from everest.data.workers import start_early, worker_context

MILLION = 1_000_000
MOST_MB = 150

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("million") / "list.txt"
    with file.open("w") as lines:
        for number in range(MILLION):
            lines.write(f"train/playing guitar {number % 400}/{number:011d}_000010_000020.mp4 {number % 400}\n")
    return file


_READS = """
import json, resource, sys, time
from pathlib import Path
import psutil
from everest.data.index import read_index
from everest.data.loader import train_loader

before, since = psutil.Process().memory_info().rss, time.process_time()
index = read_index(Path(sys.argv[1]))
read, since = time.process_time() - since, time.process_time()
index.digest()
digest = time.process_time() - since
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
held = psutil.Process().memory_info().rss
memory = {"held_mb": (held - before) / 1e6, "peak_mb": (peak - before) / 1e6}
print(json.dumps({"read_s": read, "digest_s": digest, **memory}))
"""


def test_reading_and_holding_it(listed: Path) -> None:
    out = subprocess.run([sys.executable, "-c", _READS, listed], check=True, capture_output=True, text=True).stdout
    cost = json.loads(out)
    print(cost)
    assert cost["held_mb"] < MOST_MB
    assert cost["peak_mb"] < MOST_MB


def test_a_decoding_worker_is_handed_it(listed: Path) -> None:
    start_early(Experiment())
    empty = _worker(VideoIndex(listed, VideoFiles.of([]), ()))
    whole = _worker(read_index(listed))
    print({"started_s": whole["started_s"], "without_videos_s": empty["started_s"]})
    own, shared = whole["uss_mb"] - empty["uss_mb"], whole["rss_mb"] - empty["rss_mb"]
    print({"own_mb": own, "with_shared_mb": shared})
    assert own < MOST_MB / 5
    assert shared < MOST_MB


def _worker(index: VideoIndex) -> dict[str, float]:
    context = worker_context(Experiment())
    ours, theirs = context.Pipe()
    with ours, theirs:
        process = context.Process(target=_look, args=(index, theirs))
        since = time.monotonic()
        process.start()
        assert ours.poll(300)
        ours.recv()
        started = time.monotonic() - since
        assert ours.poll(300)
        cost: dict[str, float] = ours.recv()
        process.join(300)
    return cost | {"started_s": started}


def _look(index: VideoIndex, connection: Connection) -> None:
    """Says that it has it, reads all of it, and says what that cost."""
    connection.send(len(index.videos))
    for _ in index.videos:
        pass
    memory = psutil.Process().memory_full_info()
    connection.send({"rss_mb": memory.rss / 1e6, "uss_mb": memory.uss / 1e6})
