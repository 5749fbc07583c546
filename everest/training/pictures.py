"""Pictures along the way: what the network makes of one video, drawn beside training."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from everest.data.decode import DecodeError
from everest.data.index import VideoIndex
from everest.export import Exported
from everest.training.snapshot import Snapshot


class Pictures:
    """Of the first video of an index that can be read. Training pays for a copy of the weights; the rest is done by a
    thread of its own, on this machine's cores."""

    def __init__(self, index: VideoIndex, folder: Path) -> None:
        self._index, self._folder = index, folder
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._snapshot = Snapshot()
        self._copy: Exported | None = None
        self._drawing: list[Future[Path | None]] = []

    def begin(self, exported: Exported, step: int) -> None:
        """One of now. One that is being drawn still is waited for."""
        wait(self._drawing)
        if self._copy is None:
            self._copy = replace(exported, model=deepcopy(exported.model).cpu().eval())
        weights = self._snapshot.take(exported.model.state_dict())
        self._drawing.append(self._thread.submit(self._draw, self._copy, weights, step))

    def drawn(self, to_the_end: bool = False) -> list[Path]:
        """What was done since the last call. Raises what went wrong."""
        if to_the_end:
            wait(self._drawing)
        done = [each for each in self._drawing if each.done()]
        self._drawing = [each for each in self._drawing if each not in done]
        return [file for each in done if (file := each.result())]

    def _draw(self, copy: Exported, weights: dict[str, Tensor], step: int) -> Path | None:
        from everest.figures import draw_still  # drags in matplotlib

        self._snapshot.complete()
        copy.model.load_state_dict(weights)
        file = self._folder / f"step-{step:08d}.png"
        for video in self._index.videos:
            with suppress(DecodeError):
                draw_still(copy, video, file)
                return file
        return None
