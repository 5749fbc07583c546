"""EVEREST: masked video autoencoders without redundant spatiotemporal tokens (ICML 2024)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everest.config import Experiment as Experiment
    from everest.data.decode import read_frames as read_frames
    from everest.model.redundancy import token_importance as token_importance
    from everest.model.registry import create_classifier as create_classifier
    from everest.model.registry import create_pretrain_model as create_pretrain_model
    from everest.model.weights import load_weights as load_weights

_HOME = {
    "Experiment": "everest.config",
    "create_classifier": "everest.model.registry",
    "create_pretrain_model": "everest.model.registry",
    "load_weights": "everest.model.weights",
    "read_frames": "everest.data.decode",
    "token_importance": "everest.model.redundancy",
}

__all__ = [
    "Experiment",
    "create_classifier",
    "create_pretrain_model",
    "load_weights",
    "read_frames",
    "token_importance",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'everest' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
