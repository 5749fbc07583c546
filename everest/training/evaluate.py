"""Testing a classifier by several views of each video."""

from dataclasses import dataclass

import torch
from torch import Tensor

from everest.config import Experiment
from everest.data.bad import BadVideos
from everest.data.index import VideoIndex
from everest.data.loader import evaluation_loader
from everest.errors import EverestError
from everest.model.classifier import Classifier
from everest.model.frames import select_frames
from everest.progress import ProgressBar
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest
from everest.training.precision import autocast


@dataclass(frozen=True)
class Evaluation:
    """Shares of videos, over all processes."""

    top1: float
    top5: float
    loss: float  # of the averaged probabilities
    videos: int
    bad: int
    confusion: Tensor  # int64 (classes, classes): videos by true class and answer

    def metrics(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/top1": self.top1, f"{prefix}/top5": self.top5, f"{prefix}/loss": self.loss}


@torch.no_grad()
def view_probabilities(model: Classifier, frames: Tensor, config: Experiment) -> Tensor:
    """Class probabilities of each view: uint8 (B, T, H, W, 3) on the model's device -> (B, classes), float32.

    In the precision that the experiment trains in.
    """
    if config.frames.select:
        frames = select_frames(model.patch_embed, frames, config.model.num_frames, config.frames, generator=None)
    with autocast(config, frames.device):
        logits: Tensor = model(frames)
    return logits.float().softmax(dim=1)


def evaluate(
    model: Classifier,
    index: VideoIndex,
    config: Experiment,
    process: Process,
    stop: StopRequest,
    segments: int,
    crops: int,
) -> Evaluation:
    """Averages the probabilities of ``segments`` x ``crops`` views of each labelled video.

    Raises TooManyBad, and Interrupted between batches when asked to stop.
    """
    index.require_labels()
    bad = BadVideos(len(index.videos), config.data.max_bad)
    loader = evaluation_loader(index, config, segments, crops, process.rank, process.world, process.device)
    top5, loss = 0, 0.0
    classes = model.head.out_features
    confusion = torch.zeros(classes * classes, dtype=torch.int64)
    was_training = model.training
    model.eval()
    with ProgressBar("evaluate", len(loader), visible=process.main) as bar:
        for batch in loader:
            if process.world == 1:
                stop.check()
            bad.add(batch.bad)
            bar.advance()
            process.pulse.beat()
            if not len(batch.frames):
                continue
            views = view_probabilities(model, batch.frames, config)
            probabilities = torch.stack([view.mean(dim=0) for view in views.split(segments * crops)]).cpu()
            labels = batch.labels[:: segments * crops].cpu()
            best = probabilities.topk(min(5, classes), dim=1).indices
            top5 += int((best == labels[:, None]).sum())
            loss -= float(probabilities.gather(1, labels[:, None]).log().sum())
            confusion += torch.bincount(labels * classes + best[:, 0], minlength=classes * classes)
    model.train(was_training)
    bad.share(process.gather)
    bad.check()
    parts = process.gather((top5, loss, confusion))
    confusion = sum((part[2] for part in parts), torch.zeros_like(confusion)).view(classes, classes)
    videos = int(confusion.sum())
    if not videos:
        raise EverestError(f"no video of {index.source} could be read")
    return Evaluation(
        top1=int(confusion.diagonal().sum()) / videos,
        top5=sum(part[0] for part in parts) / videos,
        loss=sum(part[1] for part in parts) / videos,
        videos=videos,
        bad=len(bad.reasons),
        confusion=confusion,
    )
