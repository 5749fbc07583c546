"""How well classes are told apart by a frozen encoder, as numbers."""

from everest.config import Experiment
from everest.data.index import VideoIndex
from everest.errors import UsageError
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.probe.features import Features, features
from everest.probe.knn import knn, top
from everest.probe.linear import linear_probe
from everest.training.distributed import Process
from everest.training.interrupt import StopRequest


def alike_labelled(train: VideoIndex, val: VideoIndex | None, config: Experiment) -> VideoIndex:
    """The validation list with the training list's labels.

    Raises UsageError where there is none, either has no labels, or training has too few videos.
    """
    if val is None:
        raise UsageError("data.val is not set; neighbours are counted for a second list: --data.val LIST")
    for index in (train, val):
        index.require_labels()
    if config.probe.neighbours > len(train.videos):
        raise UsageError(
            f"probe.neighbours {config.probe.neighbours} is more than the {len(train.videos)} videos of {train.source}"
        )
    return val.with_classes(train.classes)


def knn_metrics(train: Features, val: Features, classes: int, config: Experiment) -> dict[str, float]:
    """``val/knn_top1`` and ``val/knn_top5``, shares of the validation videos."""
    votes = knn(train, val.values, classes, config.probe.neighbours, config.probe.temperature)
    return {f"val/knn_top{count}": top(votes, val.labels, count) for count in (1, 5)}


def linear_metrics(train: Features, val: Features, classes: int, config: Experiment) -> dict[str, float]:
    """``val/linear_top1`` and ``val/linear_top5``, and the ``probe/l2`` that was taken."""
    fit = linear_probe(train, classes, config.seed, config.probe.l2)
    tops = {f"val/linear_top{count}": top(fit(val.values), val.labels, count) for count in (1, 5)}
    return tops | {"probe/l2": fit.l2}


def measure_knn(
    model: PretrainModel | Classifier,
    train: VideoIndex,
    val: VideoIndex,
    config: Experiment,
    process: Process,
    stop: StopRequest,
) -> dict[str, float]:
    """Of a model as it is now, in all processes together."""
    known, asked = (features(model, index, config, process, stop) for index in (train, val))
    return knn_metrics(known, asked, len(train.classes), config)
