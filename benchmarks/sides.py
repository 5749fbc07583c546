"""The two sides of the comparison: this project's step and that of the transformers library's VideoMAE.

Both take random clips, with the same optimizer and the same clipping of gradients. What differs is what the methods
do: VideoMAE reconstructs every hidden token and fine-tunes on all of them; EVEREST only on tokens that move.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

from benchmarks.case import Case
from everest.config import ModelConfig
from everest.data.units import Batch
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.registry import classifier, pretrain_model
from everest.training.distributed import Process
from everest.training.finetune import FinetuneLoss
from everest.training.optim import build_optimizer
from everest.training.precision import autocast
from everest.training.pretrain import pretrain_loss
from everest.training.step import Loss, Step

CLASSES = 400
_HIDDEN = 0.9  # of VideoMAE's tokens


@dataclass
class Side:
    """A network that learns, and what a step of it is: all that training does with a batch that is there."""

    case: Case
    model: nn.Module
    loss: Callable[[], Tensor]
    step: Callable[[], object]

    def forward(self) -> Tensor:
        with autocast(self.case.experiment(), next(self.model.parameters()).device):
            return self.loss()


def ours(case: Case, process: Process) -> Side:
    """The step that training takes."""
    device, config = process.device, case.experiment(process.world)
    m = config.model
    clips = torch.randint(256, (case.batch, m.num_frames, m.image_size, m.image_size, 3), dtype=torch.uint8)
    batch = Batch(clips.to(device), torch.zeros(case.batch, dtype=torch.long, device=device), [], {}, 0.0)
    if case.stage == "pretrain":
        model: PretrainModel | Classifier = pretrain_model(config)
        loss: Loss = pretrain_loss
    else:
        model = classifier(config, CLASSES)
        loss = FinetuneLoss(config.augment, CLASSES, str(device))
    model = model.to(device).train()
    step = Step(config, model, loss, build_optimizer(model, config.optim), process)
    return Side(case, model, lambda: loss(step.network, batch.frames, batch.labels), lambda: step(0, [batch]))


def theirs(case: Case, device: torch.device) -> Side:
    """The same by hand: loss, backward, clipping, AdamW, zeroing."""
    config = case.experiment().override({"optim.layer_decay": 1.0})
    m = config.model
    video = torch.randn(case.batch, m.num_frames, 3, m.image_size, m.image_size, device=device)
    if case.stage == "pretrain":
        model: nn.Module = VideoMAEForPreTraining(_as_theirs(m, use_mean_pooling=False))
        mask = torch.ones(case.batch, m.tokens, dtype=torch.bool, device=device)
        mask[:, : round((1 - _HIDDEN) * m.tokens)] = False
        inputs = {"bool_masked_pos": mask}
    else:
        model = VideoMAEForVideoClassification(_as_theirs(m, num_labels=CLASSES))
        inputs = {"labels": torch.zeros(case.batch, dtype=torch.long, device=device)}
    model = model.to(device).train()
    if case.compiled:
        model.compile()
    optimizer = build_optimizer(model, config.optim)

    def step() -> None:
        side.forward().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    side = Side(case, model, lambda: model(video, **inputs).loss, step)
    return side


def _as_theirs(m: ModelConfig, **more: object) -> VideoMAEConfig:
    return VideoMAEConfig(
        image_size=m.image_size,
        patch_size=m.patch_size,
        num_frames=m.num_frames,
        tubelet_size=m.tubelet_size,
        hidden_size=m.embed_dim,
        num_hidden_layers=m.depth,
        num_attention_heads=m.num_heads,
        intermediate_size=round(m.mlp_ratio * m.embed_dim),
        decoder_hidden_size=m.decoder_embed_dim,
        decoder_num_hidden_layers=m.decoder_depth,
        decoder_num_attention_heads=m.decoder_num_heads,
        decoder_intermediate_size=round(m.mlp_ratio * m.decoder_embed_dim),
        **more,
    )
