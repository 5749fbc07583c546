"""What fine-tuning minimises, and the batch-wise augmentation before it."""

import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from everest.config import AugmentConfig


class FinetuneLoss:
    """Random erasing, mixup or cutmix, cross entropy with smoothed labels.

    To timm a clip is an image of 3*T channels, so that all of its frames are changed alike.
    """

    def __init__(self, config: AugmentConfig, num_classes: int, device: str) -> None:
        self.config = config
        self.erase = RandomErasing(config.erase, mode="pixel", device=device)
        self.mix = (
            Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=num_classes)
            if config.mixup or config.cutmix
            else None
        )
        self.soft_cross_entropy = SoftTargetCrossEntropy()

    def __call__(self, model: nn.Module, video: Tensor, labels: Tensor) -> Tensor:
        images = video.flatten(1, 2)
        if self.config.erase:
            images = self.erase(images)
        if self.mix is None:
            logits = model(images.view_as(video))
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        images, targets = self.mix(images, labels)
        loss: Tensor = self.soft_cross_entropy(model(images.view_as(video)).float(), targets)
        return loss
