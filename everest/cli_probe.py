"""``everest probe``: nearest neighbours and a linear classifier on a frozen encoder's features."""

import argparse
import json
import os
from pathlib import Path

from everest.arguments import overrides
from everest.errors import UsageError


def add_probe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a run's folder, or an exported model")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: probe/ in the model's folder")


def run_probe(options: argparse.Namespace, rest: list[str]) -> None:
    changes = overrides(rest)
    from dataclasses import replace

    from everest.data.index import read_index
    from everest.data.shared_memory import require_shared_memory
    from everest.export import load_model, weights_file
    from everest.files import sha256, write_text
    from everest.probe.cache import cached_features
    from everest.probe.measure import alike_labelled, knn_metrics, linear_metrics
    from everest.progress import start_logging
    from everest.settings import LocalSettings
    from everest.training.device import choose_device
    from everest.training.distributed import Process
    from everest.training.interrupt import stop_requests

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("everest probe is for one process; start it without torchrun")
    exported = load_model(options.model)
    config = exported.config.override(changes)
    if config.model != exported.config.model:
        raise UsageError("the settings of the trained model itself (model.*) cannot be changed now")
    if config.data.train is None:
        raise UsageError("data.train is not set; add --data.train LIST")
    train_index = read_index(config.data.train, config.data.root)
    val_index = read_index(config.data.val, config.data.root) if config.data.val else None
    val_index = alike_labelled(train_index, val_index, config)
    start_logging()
    require_shared_memory(config, training=False, tests=[(config.probe.segments, config.probe.crops)])

    folder = options.out or options.model / "probe"
    weights = sha256(weights_file(options.model))
    process = Process(0, 1, choose_device(LocalSettings.load().device))
    exported = replace(exported, model=exported.model.to(process.device), config=config)
    with stop_requests() as stop:
        train, val = (
            cached_features(folder, weights, exported, index, process, stop) for index in (train_index, val_index)
        )
        classes = len(train_index.classes)
        metrics = knn_metrics(train, val, classes, config) | linear_metrics(train, val, classes, config)
    videos = {"train": len(train.labels), "val": len(val.labels), "unreadable": train.bad + val.bad}
    settings = {name: value for name, value in config.flat().items() if name.startswith(("probe.", "classify."))}
    result = {"metrics": metrics, "videos": videos, "classes": classes, "weights": weights, "settings": settings}
    write_text(folder / "result.json", json.dumps(result, indent=1))
    print(
        f"{videos['train']} training videos, {videos['val']} tested, {videos['unreadable']} unreadable, "
        f"{classes} classes, {config.probe.segments} segments x {config.probe.crops} crops"
    )
    for name, value in metrics.items():
        print(f"{name:24} {value:.4g}")
    print(f"{'result':24} {folder / 'result.json'}")
