"""How often a clip's frames show a short event: chosen by frame selection, or even; by alpha.

``python -m benchmarks.coverage``: a table of means over seeds, each with synthetic uncurated videos of its own.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from everest.config import FramesConfig, ModelConfig
from everest.data.decode import read_frames
from everest.data.index import read_files
from everest.data.synthetic import FRAMES_PER_SECOND
from everest.data.uncurated import EVENTS, synthesize_uncurated
from everest.model.embed import TubeletEmbed
from everest.model.frames import choose_steps, count_kept
from everest.model.redundancy import clip_importance
from everest.progress import ProgressBar
from everest.seeding import derived_seed

ALPHAS = (1.0, 1.3, 1.5, 2.0)
_MODEL = ModelConfig(size="small", image_size=64, patch_size=8)  # 16 frames, 8 steps
_RATE = 4  # one frame in so many
_STEP = _RATE * _MODEL.tubelet_size  # frames of the video from one step to the next


class Shown(NamedTuple):
    """Of the 8 steps of each clip, how many show the event: (clips,)."""

    largest: np.ndarray  # the largest c_i, as in evaluation
    drawn: np.ndarray  # in proportion to c_i, as in training
    even: np.ndarray  # as many steps, evenly over the same candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seeds", 5), ("videos", 8), ("seconds", 15), ("clips", 25)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"({default})")
    options = parser.parse_args()
    rows: dict[float, list[Shown]] = {alpha: [] for alpha in ALPHAS}
    with ProgressBar("videos", options.seeds * options.videos) as bar, TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            of_seed: dict[float, list[Shown]] = {alpha: [] for alpha in ALPHAS}
            for clips, event in _videos(Path(folder) / str(seed), seed, options):
                bar.advance()
                for alpha in ALPHAS:
                    of_seed[alpha].append(measure(clips, event, alpha, seed))
            for alpha, shown in of_seed.items():
                rows[alpha].append(Shown(*(np.concatenate(kind) for kind in zip(*shown, strict=True))))
    near = f"{options.seeds} seeds x {options.videos} videos x {options.clips} clips near the event"
    print(f"{near}; mean ± s.d. of seeds\n")
    kinds = [f"{name}, {kind}" for name in ("clips that show it", "steps of 8 that do") for kind in Shown._fields]
    print("| alpha | frames | " + " | ".join(kinds) + " |\n" + "| --- " * (2 + len(kinds)) + "|")
    for alpha, seeds in rows.items():
        covered = [_over_seeds([np.mean(shown > 0) for shown in kind], ".1%") for kind in zip(*seeds, strict=True)]
        steps = [_over_seeds([np.mean(shown) for shown in kind], ".2f") for kind in zip(*seeds, strict=True)]
        frames = FramesConfig(select=True, alpha=alpha).candidates(_MODEL.num_frames, _MODEL.tubelet_size)
        print(f"| {alpha:g} | {frames} | " + " | ".join(covered + steps) + " |")


def _over_seeds(values: list[np.floating[Any]], form: str) -> str:
    return f"{np.mean(values):{form}} ± {np.std(values):{form}}"


def _videos(folder: Path, seed: int, options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each video its clips and when they show the event, of the longest alpha's candidates: (B, T, H, W, 3), (B, S).

    The middles of clips are drawn evenly from where the longest ones show some of the event.
    """
    train = options.videos // 2
    synthesize_uncurated(folder, train, options.videos - train, 64, options.seconds, seed, lambda done, total: None)
    steps = int(max(ALPHAS) * _MODEL.steps)
    for number, video in enumerate(read_files(folder / EVENTS).videos):
        rng = np.random.default_rng(derived_seed(seed, "coverage", number))
        frames = torch.from_numpy(read_frames(video.path, range(round(options.seconds * FRAMES_PER_SECOND))))
        assert video.end is not None
        first, after = round(video.start * FRAMES_PER_SECOND), round(video.end * FRAMES_PER_SECOND)
        last = len(frames) - steps * _STEP
        starts = rng.integers(max(0, first - steps * _STEP + _RATE), min(last, after - 1) + 1, options.clips)
        places = torch.from_numpy(starts)[:, None] + torch.arange(0, steps * _STEP, _RATE)
        inside = (places >= first) & (places < after)
        yield frames[places], inside.unflatten(1, (steps, -1)).any(dim=2)


def measure(clips: Tensor, event: Tensor, alpha: float, seed: int) -> Shown:
    """Of the middle of the longest candidates, as many as ``alpha`` has."""
    config, steps = FramesConfig(select=True, alpha=alpha), _MODEL.steps
    candidates = config.candidates(_MODEL.num_frames, _MODEL.tubelet_size) // _MODEL.tubelet_size
    start = (event.shape[1] - candidates) // 2
    event = event[:, start : start + candidates]
    clips = clips[:, start * _MODEL.tubelet_size : (start + candidates) * _MODEL.tubelet_size]
    torch.manual_seed(seed)
    embed = TubeletEmbed(_MODEL)
    counts = count_kept(clip_importance(embed, embed.cut(clips), config.distance), config.keep_ratio)
    evenly = torch.linspace(0, candidates - 1, steps).round().long().expand(len(clips), -1)
    generator = torch.Generator().manual_seed(derived_seed(seed, "drawn") % 2**63)
    chosen = (choose_steps(counts, steps, None), choose_steps(counts, steps, generator), evenly)
    return Shown(*(event.gather(1, steps).sum(dim=1).numpy() for steps in chosen))


if __name__ == "__main__":
    main()
