"""What the processes of a rank are doing: Python's stacks where one can still write them, and the kernel's word."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from everest.pulse import FOLDER, STACKS, stacks_of
from orchestration.pod.spying import spied

_ANSWER_S, _LOOK_S, _SETTLED_S = 5.0, 0.05, 0.3


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started: decoding workers, and what reads videos for them."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def end_what_is_left(folder: Path) -> None:
    """Decoding workers of processes that were killed, and readers of theirs: nobody else would end them."""
    for file in folder.glob("stacks-*"):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(int(file.name.removeprefix("stacks-")))
            if process.environ().get(FOLDER) == str(folder):
                process.kill()


def ended(pid: int) -> bool:
    return _status(pid) in {psutil.STATUS_ZOMBIE, None}


def is_stopped(pid: int) -> bool:
    return _status(pid) == psutil.STATUS_STOPPED


def _status(pid: int) -> str | None:
    """As psutil names it; None: there is no such process."""
    with suppress(psutil.NoSuchProcess):
        return str(psutil.Process(pid).status())
    return None


def stacks(folder: Path, pid: int) -> str:
    """Of a rank's whole family, where it can be said of them; ``folder`` is what they have been given."""
    processes = family(pid)
    asked = [process for process in processes if stacks_of(folder, process.pid).exists()]
    before = {process.pid: stacks_of(folder, process.pid).stat().st_size for process in asked}
    for process in asked:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(STACKS)
    _wait(folder, {pid: size for pid, size in before.items() if not is_stopped(pid)})
    own = {each: _written(stacks_of(folder, each), before[each]) for each in before}
    seen = spied(each.pid for each in processes if not own.get(each.pid))
    lines = ((each, own.get(each.pid) or seen.get(each.pid)) for each in processes)
    return "\n".join(line for each, found in lines if found or each in asked for line in _said(folder, each.pid, found))


def _wait(folder: Path, before: dict[int, int]) -> None:
    """Until all have written, and nothing any more."""
    sizes, deadline, settled_at = before, time.monotonic() + _ANSWER_S, 0.0
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        now = {pid: stacks_of(folder, pid).stat().st_size for pid in before}
        if now != sizes:
            sizes, settled_at = now, time.monotonic() + _SETTLED_S
        if all(now[pid] > before[pid] for pid in before) and time.monotonic() > settled_at:
            return


def _written(file: Path, before: int) -> list[str]:
    """Lines, since it had so many bytes."""
    return file.read_bytes()[before:].decode(errors="replace").splitlines()


def _said(folder: Path, pid: int, found: Sequence[str] | None) -> Iterator[str]:
    file = stacks_of(folder, pid)
    what = file.read_text(errors="replace").partition("\n")[0] if file.exists() else "another process"
    yield f"{what}, pid {pid}: {_state(pid)}"
    yield from (f"  {line}" for line in found or ["it does not answer"])


def _state(pid: int) -> str:
    """As the kernel has it: ``S (sleeping), in futex_wait_queue``."""
    said = "gone"
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        said = next(line.split(maxsplit=1)[1] for line in lines if line.startswith("State:"))
    with suppress(OSError):
        where = Path(f"/proc/{pid}/wchan").read_text()
        said += f", in {where}" if where not in {"", "0"} else ""
    with suppress(OSError):  # root's alone
        said += "".join(f"\n    {line}" for line in Path(f"/proc/{pid}/stack").read_text().splitlines())
    return said
