"""A finished model as a folder: weights, the experiment that made them, class names."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from everest.config import Experiment
from everest.errors import UsageError
from everest.files import whole_file, write_text
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.registry import classifier, pretrain_model
from everest.model.weights import load_weights

WEIGHTS, EXPERIMENT, CLASSES = "model.safetensors", "experiment.yaml", "classes.txt"


@dataclass(frozen=True)
class Exported:
    model: PretrainModel | Classifier
    config: Experiment
    classes: tuple[str, ...]

    def texts(self) -> dict[str, str]:
        """What is beside the weights, by file name."""
        return {EXPERIMENT: self.config.to_yaml(), CLASSES: "".join(f"{name}\n" for name in self.classes)}


def save_model(folder: Path, exported: Exported) -> None:
    """Writes the three files, the weights last."""
    for name, text in exported.texts().items():
        write_text(folder / name, text)
    with whole_file(folder / WEIGHTS) as temporary:
        save_file({name: t.contiguous().cpu() for name, t in exported.model.state_dict().items()}, temporary)


def weights_file(folder: Path) -> Path:
    """Of an exported model, or that of a run's folder."""
    return (folder / "model" if (folder / "model").is_dir() else folder) / WEIGHTS


def load_model(folder: Path) -> Exported:
    """Reads an exported model, or that of a run's folder, in evaluation mode. Raises UsageError or WeightsError."""
    inner = weights_file(folder).parent
    if not (inner / EXPERIMENT).is_file():
        raise UsageError(f"{folder} is no finished run and no exported model (no {EXPERIMENT} in it)")
    config = Experiment.load(inner / EXPERIMENT)
    classes = tuple((inner / CLASSES).read_text(encoding="utf-8").splitlines())
    model = pretrain_model(config) if config.stage == "pretrain" else classifier(config, len(classes))
    report = load_weights(model, inner / WEIGHTS)
    if report.missing:
        raise UsageError(f"{inner / WEIGHTS} lacks {', '.join(report.missing[:3])}; it is not what {EXPERIMENT} says")
    return Exported(model.eval(), config, classes)
