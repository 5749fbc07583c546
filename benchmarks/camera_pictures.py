"""``python -m benchmarks.camera_pictures VIDEO … --out FILE.jpg``: what ``rero`` and ``residual`` keep of real clips.

Three rows a video: the clip, and the tokens that each of the two keeps of it, by a random embedding.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from everest.config import Experiment
from everest.data.index import VideoFile
from everest.export import Exported
from everest.figures import make_panels
from everest.files import whole_file
from everest.model.registry import classifier

_METHODS = ("rero", "residual")
_COLUMNS, _PIXELS, _GAP = 6, 112, 3


def rows(video: Path, keep: float, rate: int) -> list[np.ndarray]:
    """The clip in the middle of a video, and what each method keeps of it: uint8 (_COLUMNS, H, W, 3) each."""
    found: list[np.ndarray] = []
    for method in _METHODS:
        changes = {"stage": "finetune", "classify.method": method, "classify.keep_ratio": keep, "data.rate": rate}
        config = Experiment().override({**changes, "model.depth": 1})
        torch.manual_seed(0)
        clip, _, kept = make_panels(Exported(classifier(config, 2), config, ("a", "b")), VideoFile(video, None))
        found += [kept.frames] if found else [clip.frames, kept.frames]
    shown = np.linspace(0, len(found[0]) - 1, _COLUMNS).round().astype(int)
    return [frames[shown] for frames in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--keep", type=float, default=0.2, metavar="SHARE", help="of the tokens (0.2)")
    parser.add_argument("--rate", type=int, default=2, metavar="N", help="one frame in N (2)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jpg")
    options = parser.parse_args()
    lines = [row for video in options.videos for row in rows(video, options.keep, options.rate)]
    side = _PIXELS + _GAP
    sheet = Image.new("RGB", (_COLUMNS * side - _GAP, len(lines) * side - _GAP), "white")
    for row, frames in enumerate(lines):
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame).resize((_PIXELS, _PIXELS)), (column * side, row * side))
    with whole_file(options.out) as temporary:
        sheet.save(temporary, "jpeg", quality=80)


if __name__ == "__main__":
    main()
