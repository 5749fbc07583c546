"""A pod of an elastic job whose processes only say who they are: ``python -m tests.orchestration.pod.elastic_pod``.

It comes out of rounds as torchrun does: asked to by a signal, or because another of its team is gone.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from everest.progress import start_logging
from orchestration.job import AGAIN
from orchestration.pod import host, meeting, member, rounds
from orchestration.settings import PlatformSettings


def main() -> None:
    folder, stuck, *sizes = sys.argv[1:]
    rounds.SETTLE_S, host.SETTLE_S, rounds.BROKEN_S, member.BROKEN_S = 2.0, 2.0, 4.0, 4.0
    host.BEAT_S, host.SILENT_S, member.BEAT_S = 0.5, 3.0, 0.5
    meeting._LINGER_S = 1.0
    start_logging(prefix=f"[pod {os.environ['PET_NODE_RANK']}] ")
    meetings = meeting.Meetings(PlatformSettings.load(), "run", [int(size) for size in sizes], [])
    print("came", flush=True)

    def work(flags: list[str]) -> int:
        given = dict(zip(flags[::2], flags[1::2], strict=True))
        round_, rank, pods = given["--rdzv-id"], int(given["--node-rank"]), int(given["--nnodes"])
        mine = Path(folder) / f"{round_}.{rank}"
        mine.write_text(json.dumps({"pid": os.getpid(), "store": given["--rdzv-endpoint"]}))
        print(f"round {round_} rank {rank} of {pods}", flush=True)
        try:
            while not (finish := Path(folder) / "finish").exists():
                time.sleep(0.1)
                if stuck != "stuck" and _a_peer_has_ended(Path(folder), round_) and not finish.exists():
                    return AGAIN
        finally:
            mine.write_text("{}")
        return 0

    code = AGAIN
    while code == AGAIN:
        code = meetings.work(work)
    print(f"ended {code}", flush=True)
    sys.exit(code)


def _a_peer_has_ended(folder: Path, round_: str) -> bool:
    for file in folder.glob(f"{round_}.*"):
        with suppress(ValueError):
            pid = json.loads(file.read_text()).get("pid")
            if pid is None or not Path(f"/proc/{pid}").exists() or "Z" in _state(pid):
                return True
    return False


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    return "Z"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
