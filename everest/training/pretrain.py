"""What pre-training minimises."""

from torch import Tensor, nn

from everest.model.autoencoder import PretrainOutput


def pretrain_loss(model: nn.Module, clips: Tensor, _labels: Tensor) -> Tensor:
    """Mean squared error of the hidden tokens' normalised pixels (EVEREST, equation 4)."""
    out: PretrainOutput = model(clips)
    return out.loss
