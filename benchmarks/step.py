"""Speed and memory of training steps, beside the transformers library's VideoMAE, in one run: ``make bench``.

Both take random 16x224x224 clips through ViT-B, forward and backward, in turns. What is shared: the device,
the batch, the precision. What differs is what the methods do: VideoMAE reconstructs every hidden token and
fine-tunes on all of them; EVEREST only on tokens that move.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

import everest
from everest.errors import UsageError

TOKENS = 8 * 14 * 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.rounds < 1:
        raise UsageError("--rounds must be at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    video = torch.randn(options.batch, 3, 16, 224, 224, device=device)
    frames = video.transpose(1, 2)
    labels = torch.zeros(options.batch, dtype=torch.long, device=device)
    mask = torch.ones(options.batch, TOKENS, dtype=torch.bool, device=device)
    mask[:, :156] = False

    table = Table("step", "EVEREST s", "VideoMAE s", "times faster", "EVEREST saved MB", "VideoMAE saved MB")
    ours = everest.create_pretrain_model("base").to(device)
    theirs = VideoMAEForPreTraining(VideoMAEConfig(use_mean_pooling=False)).to(device)
    row = compare(lambda: ours(video).loss, lambda: theirs(frames, bool_masked_pos=mask).loss, ours, theirs, options)
    table.add_row("pre-train", *row)

    ours_tuned = everest.create_classifier("base", num_classes=101).to(device)
    theirs_tuned = VideoMAEForVideoClassification(VideoMAEConfig(num_labels=101)).to(device)
    row = compare(
        lambda: nn.functional.cross_entropy(ours_tuned(video), labels),
        lambda: theirs_tuned(frames, labels=labels).loss,
        ours_tuned,
        theirs_tuned,
        options,
    )
    table.add_row("fine-tune", *row)
    Console().print(f"ViT-B, batch {options.batch}, {device.type}, {torch.get_num_threads()} threads", table)


def compare(
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    our_model: nn.Module,
    their_model: nn.Module,
    options: argparse.Namespace,
) -> list[str]:
    """Median seconds of a step each, their ratio, and bytes kept for the backward pass per clip."""
    saved = [
        saved_bytes(step, model) / options.batch / 1e6 for step, model in ((ours, our_model), (theirs, their_model))
    ]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.rounds + 1):
        for times, step in zip(seconds, (ours, theirs), strict=True):
            start = time.perf_counter()
            step().backward()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    a, b = (statistics.median(times[1:]) for times in seconds)
    return [f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}", f"{saved[0]:.0f}", f"{saved[1]:.0f}"]


def saved_bytes(step: Callable[[], Tensor], model: nn.Module) -> int:
    """Of all tensors that autograd keeps in one forward pass, the weights left out, each storage once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = step()
        total = sum(kept.values())
    del loss
    return total


if __name__ == "__main__":
    main()
