"""Models by size."""

from typing import Any, Literal

from everest.config import Experiment, ModelConfig, Size
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier


def create_pretrain_model(size: Size = "base", **overrides: Any) -> PretrainModel:
    """The masked autoencoder of a size. Overrides are any fields of ModelConfig and MaskConfig.

    Raises UsageError (a one-line message) for an unknown field or an impossible value.
    """
    config = _configure("mask", size, overrides)
    return PretrainModel(config.model, config.mask)


def create_classifier(
    size: Size = "base", num_classes: int = 101, keep_ratio: float = 0.6, **overrides: Any
) -> Classifier:
    """The classifier of a size. Overrides are any fields of ModelConfig, ``method`` and ``distance``."""
    config = _configure("classify", size, {"keep_ratio": keep_ratio, **overrides})
    return classifier(config, num_classes)


def pretrain_model(config: Experiment) -> PretrainModel:
    return PretrainModel(config.model, config.mask)


def classifier(config: Experiment, num_classes: int) -> Classifier:
    return Classifier(config.model, config.classify, num_classes)


def _configure(section: Literal["mask", "classify"], size: Size, overrides: dict[str, Any]) -> Experiment:
    named = {
        f"{'model' if name in ModelConfig.model_fields else section}.{name}": value for name, value in overrides.items()
    }
    return Experiment().override({"model.size": size, **named})
