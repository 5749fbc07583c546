"""What fine-tuning minimises, and the batch-wise augmentation before it."""

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from everest.config import AugmentConfig


class FinetuneLoss:
    """Random erasing, mixup or cutmix, cross entropy with smoothed labels. All frames of a clip are changed alike."""

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
        if self.config.erase:
            video = self._erased(video)
        if self.mix is None:
            logits = model(video)
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        images, targets = self.mix(video.flatten(1, 2), labels)  # to timm a clip is an image of 3*T channels
        loss: Tensor = self.soft_cross_entropy(model(images.view_as(video)).float(), targets)
        return loss

    def _erased(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) with the same noise in all frames of a clip.

        Noise that changed from frame to frame would be what changes most, and so all be kept.
        """
        untouched = torch.full_like(video[:, :, 0], torch.nan)
        noise = self.erase(untouched)[:, :, None]
        return torch.where(noise.isnan(), video, noise)
