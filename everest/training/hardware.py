"""How much of a GPU training uses."""

import logging
from typing import NamedTuple

import torch

from everest.config import Experiment
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.cost import flops_to_train
from everest.training.distributed import Process

log = logging.getLogger(__name__)


class Peak(NamedTuple):
    """Most floating point operations a second, dense, 10^12."""

    bfloat16: float
    float32: float  # without tensor cores, as torch multiplies it unless told otherwise


#: From the makers' data sheets, by the part of the device's name that tells it; a more special name stands first.
PEAKS = {
    "B200": Peak(2250, 75),
    "GH200": Peak(989.4, 66.9),
    "H200 NVL": Peak(835.5, 60),
    "H200": Peak(989.4, 66.9),
    "H100 NVL": Peak(835.5, 60),
    "H100 PCIe": Peak(756, 51.2),
    "H100": Peak(989.4, 66.9),
    "H20": Peak(148, 44),
    "A100": Peak(312, 19.5),
    "A800": Peak(312, 19.5),
    "A40": Peak(149.7, 37.4),
    "A30": Peak(165, 10.3),
    "A10": Peak(125, 31.2),
    "RTX A6000": Peak(154.8, 38.7),
    "RTX 6000 Ada": Peak(364.2, 91.1),
    "L40S": Peak(362, 91.6),
    "L40": Peak(181, 90.5),
    "L4": Peak(121, 30.3),
}


def peak_of(name: str) -> Peak | None:
    """Of the GPU that torch calls so; None where it is not known, or is a part of one (MIG)."""
    if "MIG" in name:
        return None
    return next((peak for part, peak in PEAKS.items() if f" {part} " in f" {name.replace('-', ' ')} "), None)


class Hardware:
    """Of this process's GPU: memory and utilisation. Nothing on a CPU."""

    def __init__(self, process: Process, model: PretrainModel | Classifier, config: Experiment, bfloat16: bool) -> None:
        self._process, self._peak, self._flops_per_clip = process, 0.0, 0.0
        if process.device.type == "cuda":
            name = torch.cuda.get_device_name(process.device)
            if peak := peak_of(name):
                self._peak = 1e12 * (peak.bfloat16 if bfloat16 else peak.float32)
                self._flops_per_clip = flops_to_train(model, config)
            elif process.main:
                log.info("perf/mfu is left out: what a %s can do at most is not known here", name)

    def numbers(self, clips_per_s: float) -> dict[str, float]:
        """Since the last time, of the process with the most memory, and over all processes."""
        device = self._process.device
        if device.type != "cuda":
            return {}
        used = max(self._process.gather(torch.cuda.max_memory_allocated(device)))
        torch.cuda.reset_peak_memory_stats(device)
        numbers = {"perf/memory_gb": used / 1e9}
        if self._peak:
            numbers["perf/mfu"] = utilisation(self._flops_per_clip, clips_per_s, self._peak * self._process.world)
        return numbers


def utilisation(flops_per_clip: float, clips_per_s: float, peak: float) -> float:
    """The share of the operations that could be done which the model's training is made of (MFU)."""
    return flops_per_clip * clips_per_s / peak
