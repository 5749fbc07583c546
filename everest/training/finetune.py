"""What fine-tuning minimises, and the batch-wise augmentation before it."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everest.config import AugmentConfig
from everest.model.pixels import Pixels

if TYPE_CHECKING:
    from timm.data.mixup import Mixup
    from timm.data.random_erasing import RandomErasing


class FinetuneLoss:
    """Random erasing, mixup or cutmix, cross entropy with smoothed labels. All frames of a clip are changed alike.

    timm, which takes seconds to import, is imported for what is on.
    """

    erase: "RandomErasing | None" = None
    mix: "Mixup | None" = None

    def __init__(self, config: AugmentConfig, num_classes: int, device: str) -> None:
        self.config = config
        self.pixels = Pixels(3).to(device)
        if config.erase:
            from timm.data.random_erasing import RandomErasing

            self.erase = RandomErasing(config.erase, mode="pixel", device=device)
        if config.mixup or config.cutmix:
            from timm.data.mixup import Mixup

            self.mix = Mixup(
                config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=num_classes
            )

    def __call__(self, model: nn.Module, clips: Tensor, labels: Tensor) -> Tensor:
        """``clips`` are uint8 (B, T, H, W, 3), and reach the model as such."""
        if self.erase:
            clips = self._erased(self.erase, clips)
        if self.mix is None:
            return F.cross_entropy(model(clips).float(), labels, label_smoothing=self.config.label_smoothing)
        clips, targets = self._mixed(self.mix, clips, labels)
        return F.cross_entropy(model(clips).float(), targets)

    def _erased(self, erase: "RandomErasing", clips: Tensor) -> Tensor:
        """With the same noise in all frames of a clip, normal but for what no pixel can be.

        Noise that changed from frame to frame would be what changes most, and so all be kept.
        """
        B, _, H, W, _ = clips.shape
        untouched = torch.full((B, 3, H, W), torch.nan, device=clips.device)
        noise = erase(untouched).permute(0, 2, 3, 1)[:, None]
        stored = (self.pixels.unit(noise) * 255).round_().clamp_(0, 255).nan_to_num_().byte()
        return torch.where(noise.isnan(), clips, stored)

    @staticmethod
    def _mixed(mix: "Mixup", clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Each clip with the one at the other end of the batch, to whole pixel values, and the labels' shares.

        What timm's mixing does is seen from what it makes of a white picture and a black one.
        """
        B, T, H, W, _ = clips.shape
        pictures = torch.zeros(2, 1, H, W, device=clips.device)
        pictures[0] = 1
        pictures, targets = mix(pictures, labels)
        own = pictures[0, 0, :, :, None].expand(H, W, 3).reshape(-1)
        rows = clips.reshape(B, T, H * W * 3)
        mixed = rows * own
        mixed += rows.flip(0) * (1 - own)
        return mixed.round_().byte().view_as(clips), targets
