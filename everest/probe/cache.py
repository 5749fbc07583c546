"""Features on the disk, each file with all that they depend on."""

import json
import logging
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from everest.config import Experiment
from everest.data.index import VideoIndex
from everest.export import Exported
from everest.files import locked, whole_file
from everest.probe.features import Features, features
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest
from everest.training.precision import in_bfloat16

log = logging.getLogger(__name__)

#: Settings that features depend on.
_SETTINGS = (
    "model.",
    "classify.",
    "frames.",
    "data.sampling",
    "data.rate",
    "data.reader",
    "probe.layer",
    "probe.segments",
    "probe.crops",
)


def cached_features(
    folder: Path, weights: str, exported: Exported, index: VideoIndex, process: Process, stop: StopRequest
) -> Features:
    """Those of ``folder`` where they are of the same weights (their sha256), list and settings, else computed and kept.

    One process at a time computes in a folder; others wait for it. Raises what ``features`` raises.
    """
    asked = identity(weights, index, exported.config, process.device)
    file = folder / f"features-{sha256(asked.encode()).hexdigest()[:16]}.safetensors"
    with locked(folder / ".lock"):
        found = read_features(file, asked)
        if found is None:
            found = features(exported.model, index, exported.config, process, stop)
            save_features(file, asked, found)
        else:
            log.info("features of %s are those of %s", index.source, file)
    return found


def identity(weights: str, index: VideoIndex, config: Experiment, device: torch.device) -> str:
    """What features depend on, as JSON; the videos as paths and labels, or as they were packed."""
    said: dict[str, Any] = {name: value for name, value in config.flat().items() if name.startswith(_SETTINGS)}
    said |= {"everest": version("everest-video"), "weights": weights, "videos": index.digest()}
    return json.dumps(said | {"device": device.type, "bfloat16": in_bfloat16(config, device)}, sort_keys=True)


def save_features(file: Path, identity: str, found: Features) -> None:
    tensors = {"values": found.values.contiguous(), "labels": found.labels, "bad": torch.tensor(found.bad)}
    with whole_file(file) as temporary:
        save_file(tensors, temporary, {"identity": identity})


def read_features(file: Path, identity: str) -> Features | None:
    """None where there are none, they depend on something else, or the file is damaged, which is said."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("identity") != identity:
                log.warning("%s has features of other weights, videos or settings; they are computed anew", file)
                return None
            values, labels, bad = (opened.get_tensor(name) for name in ("values", "labels", "bad"))
    except SafetensorError as error:
        log.warning("%s is damaged (%s); they are computed anew", file, error)
        return None
    return Features(values, labels, int(bad))
