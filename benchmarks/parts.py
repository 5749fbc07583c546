"""What the parts of our step take, each without what it calls of another part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.sides import Side
from everest.model import autoencoder, classifier
from everest.model.autoencoder import Decoder, Encoder, PretrainModel
from everest.model.classifier import Classifier
from everest.model.embed import TubeletEmbed
from everest.model.pixels import Pixels
from everest.training.finetune import FinetuneLoss

SELECTION, PIXELS, LOSS = "selection", "pixels", "loss and what is left"
PARTS = (SELECTION, PIXELS, "encoder", "decoder", "erasing", LOSS, "backward", "clipping", "AdamW", "zeroing")

#: What is called where, and the part it is.
_CALLS: tuple[tuple[Any, str, str], ...] = (
    (TubeletEmbed, "cut", SELECTION),
    (PretrainModel, "choose", SELECTION),
    (Classifier, "keep", SELECTION),
    *((module, "take", PIXELS) for module in (autoencoder, classifier)),
    (Pixels, "normalized", PIXELS),
    (Pixels, "unit", PIXELS),
    (autoencoder, "reconstruction_target", PIXELS),
    (Encoder, "forward", "encoder"),
    (Decoder, "forward", "decoder"),
    (PretrainModel, "forward", LOSS),
    (Classifier, "forward", "encoder"),
    (FinetuneLoss, "_erased", "erasing"),
    (torch.Tensor, "backward", "backward"),
    (torch.nn.utils, "get_total_norm", "clipping"),
    (torch.optim.AdamW, "step", "AdamW"),
    (torch.optim.AdamW, "zero_grad", "zeroing"),
)


def parts_of(side: Side, rounds: int, device: torch.device) -> dict[str, float]:
    """Mean seconds of each over the rounds, by the clock (of the GPU, where there is one)."""
    watch = _Watch(device)
    with ExitStack() as patches:
        for owner, name, part in _CALLS:
            patches.enter_context(patch.object(owner, name, watch.timed(part, getattr(owner, name))))
        side.step()
        watch.clear()
        for _ in range(rounds):
            with watch.part(LOSS):
                side.step()
    return {part: seconds / rounds for part, seconds in watch.totals().items()}


class _Watch:
    """Time goes to the innermost part that is open."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.clear()

    def clear(self) -> None:
        self._open: list[str] = []
        self._marks: list[tuple[str | None, Any]] = []  # what was open until then

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._mark()
        self._open.append(name)
        yield
        self._mark()
        self._open.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def _mark(self) -> None:
        if self._device.type == "cuda":
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((self._open[-1] if self._open else None, now))

    def totals(self) -> dict[str, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found: dict[str, float] = defaultdict(float)
        for (_, before), (part, now) in zip(self._marks, self._marks[1:], strict=False):
            if part:
                found[part] += before.elapsed_time(now) / 1e3 if self._device.type == "cuda" else now - before
        return {part: found[part] for part in PARTS if part in found}
