"""Nearest neighbours on videos that any encoder tells apart."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from everest.data.encode import write_video
from everest.data.index import read_index
from everest.model.registry import pretrain_model
from everest.probe.measure import measure_knn
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest
from tests.conftest import tiny

COLOURS = [(230, 40, 40), (40, 230, 40), (40, 40, 230), (230, 230, 40)]
CHANCE = 1 / len(COLOURS)


def video(colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """A square of that colour goes somewhere at some pace before grey noise that stands still: uint8 (T, H, W, 3)."""
    frames = np.repeat(np.repeat(rng.integers(60, 200, (1, 32, 32, 1), dtype=np.uint8), 3, axis=3), 8, axis=0)
    place, pace = rng.integers(0, 32, 2), rng.integers(1, 4, 2) * rng.choice([-1, 1], 2)
    for number, frame in enumerate(frames):
        rows, columns = ((np.arange(12) + place[axis] + number * pace[axis]) % 32 for axis in (0, 1))
        frame[np.ix_(rows, columns)] = np.clip(np.array(colour) + rng.integers(-30, 30), 0, 255)
    return frames


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for name, count in (("train", 24), ("val", 32)):
        lines = []
        for number in range(count):
            label = number % len(COLOURS)
            write_video(folder / f"{name}-{number}.mp4", video(COLOURS[label], rng), 25)
            lines.append(f"{name}-{number}.mp4,{label}")
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return folder


def top1(folder: Path, train: str) -> float:
    config = tiny("pretrain", folder, **{"probe.neighbours": 3, "classify.keep_ratio": 0.3})
    indices = [read_index(folder / f"{name}.csv") for name in (train, "val")]
    alone = Process(0, 1, torch.device("cpu"))
    return measure_knn(pretrain_model(config), *indices, config, alone, StopRequest())["val/knn_top1"]


def test_colours_of_what_moves_are_told_apart_by_far_and_labels_drawn_at_random_are_not(coloured: Path) -> None:
    """Without any training: even random projections keep colours apart."""
    assert top1(coloured, "train") >= 0.9
    paths, labels = zip(*(line.split(",") for line in (coloured / "train.csv").read_text().splitlines()), strict=True)
    drawn = random.Random(0).sample(labels, len(labels))
    (coloured / "shuffled.csv").write_text("\n".join(map(",".join, zip(paths, drawn, strict=True))))
    assert top1(coloured, "shuffled") < CHANCE + 0.25
