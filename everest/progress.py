"""How far long work is: a live bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True)


def start_logging(main: bool = True, prefix: str = "") -> None:
    """The one way messages reach the person: through rich on a terminal, as lines elsewhere, which begin so."""
    plain = logging.StreamHandler()
    plain.setFormatter(logging.Formatter(f"{prefix}%(levelname)s %(message)s"))
    handler = RichHandler(console=console, show_path=False, markup=False) if console.is_terminal else plain
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for ours in ("everest", "orchestration", "sweeps"):
        logging.getLogger(ours).setLevel(logging.INFO if main else logging.ERROR)


class ProgressBar:
    """Counts up to ``total``. Elsewhere than on a terminal: a line whenever numbers are shown, or every few seconds."""

    def __init__(self, title: str, total: int, done: int = 0, visible: bool = True, every_s: float = 10) -> None:
        self.title, self.total, self.done, self.every_s = title, total, done, every_s
        self.visible = visible
        self._first, self._started, self._last = done, time.monotonic(), time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not (visible and console.is_terminal),
        )

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, numbers="")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, count: int = 1) -> None:
        self.done += count
        self._bar.update(self._task, completed=self.done, total=self.total)
        if time.monotonic() - self._last > self.every_s:
            self.show({})

    def show(self, numbers: Mapping[str, float]) -> None:
        """Numbers to read beside the bar."""
        self._last = time.monotonic()
        text = "  ".join(_said(name, value) for name, value in numbers.items())
        self._bar.update(self._task, numbers=text)
        if self.visible and not console.is_terminal:
            line = f"{self.title} {self.done}/{self.total}  {text}  {clock(self._left())} left"
            print(" ".join(line.split()), file=sys.stderr, flush=True)

    def _left(self) -> float:
        """Seconds, by the pace so far."""
        pace = (time.monotonic() - self._started) / max(1, self.done - self._first)
        return pace * max(0, self.total - self.done)


def _said(name: str, value: float) -> str:
    """perf/clips_per_s 17.0 -> clips/s 17; perf/data_wait 0.25 -> data_wait 25%"""
    short = name.rpartition("/")[2].replace("_per_", "/")
    return f"{short} {value:.0%}" if short.endswith("_wait") else f"{short} {value:.4g}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
