"""One vector a video, from a frozen encoder."""

from dataclasses import dataclass

import torch
from torch import Tensor

from everest.config import Experiment
from everest.data.bad import BadVideos
from everest.data.index import VideoIndex
from everest.data.loader import evaluation_loader
from everest.errors import EverestError
from everest.model.autoencoder import Encoder, PretrainModel
from everest.model.classifier import Classifier, classified_tokens
from everest.model.frames import select_frames
from everest.model.masks.clip import Clip
from everest.model.select import take
from everest.progress import ProgressBar
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest
from everest.training.precision import autocast


@dataclass(frozen=True)
class Features:
    """Of the N readable videos of a list, on the CPU."""

    values: Tensor  # float32 (N, D)
    labels: Tensor  # int64 (N,)
    bad: int = 0  # videos that could not be read


def features(
    model: PretrainModel | Classifier, index: VideoIndex, config: Experiment, process: Process, stop: StopRequest
) -> Features:
    """The mean over ``probe.segments`` x ``probe.crops`` views of each labelled video.

    Several processes share the videos, and all get all of them, the first process's first. The model is as before.
    Raises EverestError where no video can be read, TooManyBad, and Interrupted between batches when asked to stop.
    """
    index.require_labels()
    views = config.probe.segments * config.probe.crops
    bad = BadVideos(len(index.videos), config.data.max_bad)
    loader = evaluation_loader(
        index, config, config.probe.segments, config.probe.crops, process.rank, process.world, process.device
    )
    values = [torch.empty(0, config.model.embed_dim)]
    labels = [torch.empty(0, dtype=torch.int64)]
    was_training = model.training
    model.eval()
    with ProgressBar("features", len(loader), visible=process.main) as bar:
        for batch in loader:
            if process.world == 1:
                stop.check()
            bad.add(batch.bad)
            bar.advance()
            process.pulse.beat()
            if len(batch.frames):
                values.append(clip_features(model, batch.frames, config).unflatten(0, (-1, views)).mean(dim=1).cpu())
                labels.append(batch.labels[::views].cpu())
    model.train(was_training)
    bad.share(process.gather)
    bad.check()
    parts = process.gather((torch.cat(values), torch.cat(labels)))
    found = Features(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), len(bad.reasons))
    if not len(found.labels):
        raise EverestError(f"no video of {index.source} could be read")
    if not found.values.isfinite().all():
        raise EverestError(f"features of {index.source} are not finite; the weights may not be, or try float32 ones")
    return found


@torch.no_grad()
def clip_features(model: PretrainModel | Classifier, clips: Tensor, config: Experiment) -> Tensor:
    """Of clips as decoded, uint8 (B, T, H, W, 3), on the model's device: (B, D), float32.

    Tokens that ``classify`` keeps go through ``probe.layer`` blocks, and are averaged. After all of them comes the
    norm that the model has there: an autoencoder's before averaging, a classifier's after it.
    """
    encoder = model.encoder if isinstance(model, PretrainModel) else model
    layer = config.probe.layer
    if config.frames.select:
        clips = select_frames(model.patch_embed, clips, config.model.num_frames, config.frames, generator=None)
    with autocast(config, clips.device):
        clip = Clip.cut(model.patch_embed, clips, config.classify.distance)
        kept = classified_tokens(clip, config.classify, training=False)
        tubelets_BLP = clip.tubelets.flatten(1, 2)
        x_BKD = model.patch_embed(take(tubelets_BLP, kept))
        x_BKD = x_BKD + encoder.positions(kept, tubelets_BLP.shape[1]).to(x_BKD.dtype)
        for block in encoder.blocks[:layer]:
            x_BKD = block(x_BKD)
        if layer is None and isinstance(encoder, Encoder):
            x_BKD = encoder.norm(x_BKD)
        x_BD = x_BKD.float().mean(dim=1)
        if layer is None and isinstance(encoder, Classifier):
            x_BD = encoder.fc_norm(x_BD)
    return x_BD.float()
