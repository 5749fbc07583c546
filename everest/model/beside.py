"""What no tensor's shape tells, as the settings beside weights have it: our own, or the transformers library's."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from everest.config import Experiment
from everest.model.positions import Grid


class Beside(NamedTuple):
    """Numbers of heads by setting, and the grid of a clip's tokens; what is not said is not there."""

    heads: dict[str, int]
    grid: Grid | None = None


def read_beside(source: Path) -> Beside:
    """Of weights in a file or folder."""
    folder = source if source.is_dir() else source.parent
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if (folder / "experiment.yaml").is_file():
        model = Experiment.load(folder / "experiment.yaml").model
        heads = {"num_heads": model.num_heads, "decoder_num_heads": model.decoder_num_heads}
        return Beside(heads, Grid.of(model))
    if (folder / "config.json").is_file():
        return _of_transformers(json.loads((folder / "config.json").read_text()))
    return Beside({})


def _of_transformers(said: dict[str, Any]) -> Beside:
    names = {"num_heads": "num_attention_heads", "decoder_num_heads": "decoder_num_attention_heads"}
    heads = {ours: int(said[theirs]) for ours, theirs in names.items() if theirs in said}
    sizes = [said.get(name) for name in ("num_frames", "tubelet_size", "image_size", "patch_size")]
    match sizes:
        case [int(frames), int(tubelet), int(height), int(patch)]:
            return Beside(heads, Grid(frames // tubelet, height // patch))
    return Beside(heads)
