"""What stretched positions are worth on clips of another size than those that a network learned on.

``python -m benchmarks.positions work/demo-pretrain``: its loss on clips of its validation list, with positions as
computed for their grid, and stretched from its own.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from everest.data.clips import EvaluationViews
from everest.data.index import read_index
from everest.errors import UsageError
from everest.export import load_model
from everest.model.autoencoder import PretrainModel
from everest.model.positions import Grid, Positions
from everest.model.registry import pretrain_model
from everest.model.weights import load_weights


class Row(NamedTuple):
    frames: int
    image_size: int
    computed: float
    stretched: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a pre-training")
    parser.add_argument("--videos", type=int, default=96, metavar="N", help="(96)")
    options = parser.parse_args()
    print("| frames | pixels | computed | stretched |\n| --- | --- | --- | --- |")
    for row in measure(options.run, options.videos):
        print(f"| {row.frames} | {row.image_size} | {row.computed:.4f} | {row.stretched:.4f} |", flush=True)


@torch.no_grad()
def measure(run: Path, videos: int) -> Iterator[Row]:
    """Of its own size, half as many pixels more, half and twice as many frames, and both. Raises UsageError."""
    trained = load_model(run)
    if not isinstance(trained.model, PretrainModel) or trained.config.data.val is None:
        raise UsageError(f"{run} must be a pre-training with data.val")
    index, own = read_index(trained.config.data.val, trained.config.data.root), trained.config.model
    for frames, pixels in ((1, 1), (1, 1.5), (0.5, 1), (2, 1), (2, 1.5)):
        sizes = {"num_frames": int(own.num_frames * frames), "image_size": int(own.image_size * pixels)}
        config = trained.config.override({f"model.{name}": value for name, value in sizes.items()})
        model = pretrain_model(config).eval()
        load_weights(model, run)
        views = EvaluationViews(index, config, segments=1, crops=1)
        clips = torch.cat([views.views(video) for video in islice(index.videos, videos)])
        losses = []
        for origin in (Grid.of(config.model), Grid.of(own)):
            for module in model.modules():
                if isinstance(module, Positions):
                    module.stretch(origin)
            torch.manual_seed(0)  # the same tokens are visible
            losses.append(float(model(clips).loss))
        yield Row(config.model.num_frames, config.model.image_size, *losses)


if __name__ == "__main__":
    main()
