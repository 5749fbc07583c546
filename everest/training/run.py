"""One run from an experiment to an exported model, whoever keeps its checkpoints and numbers."""

import csv
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from everest.config import Experiment
from everest.data.decode import DecodeError
from everest.data.index import VideoIndex, read_index
from everest.data.shared_memory import Views, require_shared_memory
from everest.data.video import Video
from everest.errors import UsageError
from everest.export import EXPERIMENT, Exported, save_model
from everest.files import whole_file, write_text
from everest.identity import same_experiment
from everest.model.autoencoder import PretrainModel
from everest.model.classifier import Classifier
from everest.model.registry import classifier, pretrain_model
from everest.model.weights import load_weights
from everest.probe.measure import alike_labelled, measure_knn
from everest.protocols import CheckpointStore, Outcome, Queue, Tracker
from everest.seeding import choose_algorithms, seed_everything
from everest.training.check import check_machines
from everest.training.checkpoint import Checkpoints, clear_scratch
from everest.training.compiling import compiles
from everest.training.distributed import Process
from everest.training.evaluate import Evaluation, evaluate
from everest.training.finetune import FinetuneLoss
from everest.training.interrupt import Interrupted, StopRequest
from everest.training.local import METRICS
from everest.training.loop import Training, train
from everest.training.manifest import Damaged
from everest.training.pictures import Pictures
from everest.training.precision import in_bfloat16
from everest.training.pretrain import pretrain_loss
from everest.training.saved import Checkpoint
from everest.training.step import Loss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a finished run leaves, also as ``result.json`` in its folder."""

    name: str
    steps: int
    metrics: dict[str, float]
    model: str  # folder
    address: str | None = None  # in the model registry

    @classmethod
    def read(cls, folder: Path) -> "Result | None":
        file = folder / "result.json"
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


FIGURES, DATA = "figures", "data.json"


def run(
    config: Experiment,
    folder: Path,
    store: CheckpointStore,
    tracker: Tracker,
    process: Process,
    stop: StopRequest,
    queue: Queue | None = None,
) -> Result:
    """Trains, tests and exports; continues from the store's newest checkpoint where it has one.

    ``folder`` keeps what a person looks at: the experiment, figures, the exported model and the result. ``queue``
    may take checkpoints to the store while training goes on.
    Raises UsageError before anything is written where the experiment cannot be run or is not the one
    that ``folder`` was begun with, or so many processes cannot share it; Unfit before the first step where this machine
    fails its check; Interrupted after saving when asked to stop.
    """
    config.share_of(process.world)
    process.together(lambda: compiles(config, process.device))
    train_index, val_index = process.together(lambda: _indices(config))
    process.together(lambda: _require_shared_memory(config, val_index))
    data = _data(train_index, val_index)
    process.together(lambda: _begin(folder, config, data) if process.main else None)
    check_machines(process, folder)
    checkpoints = Checkpoints(store, folder, config.keep.checkpoints, queue)
    training = process.together(
        lambda: _prepare(config, folder, checkpoints, tracker, process, stop, train_index, val_index)
    )
    with process.pulse.during("loading"):
        begun = process.share(process.together(lambda: _take_over(training) if process.main else None))
    if begun:
        training.restore_from_first(begun)
    start = begun.step if begun else 0
    if process.main:
        log.info("%s %s: %s", config.name, f"continues at step {start}" if start else "starts", _summary(training))
    tracker.start(config.flat(), start)
    tracker.artifact(folder / EXPERIMENT)
    outcome: Outcome = "failed"
    try:
        with checkpoints:
            _describe_data(config, tracker, train_index, val_index)
            train(training, start)
            process.pulse.enter("finishing")
            result = _finish(training, folder, val_index)
        outcome = "finished"
    except Interrupted:
        outcome = "interrupted"
        raise
    finally:
        tracker.finish(outcome)
    if process.main:
        write_text(folder / "result.json", json.dumps(asdict(result), indent=1))
    return result


def _indices(config: Experiment) -> tuple[VideoIndex, VideoIndex | None]:
    if config.data.train is None:
        raise UsageError("data.train is not set; give a list file or a folder of videos")
    train_index = read_index(config.data.train, config.data.root)
    val_index = read_index(config.data.val, config.data.root) if config.data.val else None
    if config.stage == "finetune":
        train_index.require_labels()
        classes = _all_classes(config, train_index)
        if val_index:
            val_index.require_labels()
            val_index = val_index.with_classes(classes)
    if _counts_neighbours(config):
        alike_labelled(train_index, val_index, config)
    return train_index, val_index


def _all_classes(config: Experiment, index: VideoIndex) -> tuple[str, ...]:
    """Those of the list, and numbers where ``classify.num_classes`` says that there are more."""
    count, wanted = len(index.classes), config.classify.num_classes or len(index.classes)
    if count > wanted:
        raise UsageError(f"{index.source} has label {count - 1}, but there are {wanted} classes")
    return index.classes + tuple(str(label) for label in range(count, wanted))


def _require_shared_memory(config: Experiment, val_index: VideoIndex | None) -> None:
    evaluate, probe = config.evaluate, config.probe
    tests: list[Views] = []
    if config.stage == "finetune" and val_index:
        tests = [(1, 1), (evaluate.segments, evaluate.crops)]  # during training, and after it
    elif _counts_neighbours(config):
        tests = [(probe.segments, probe.crops)]
    require_shared_memory(config, training=True, tests=tests)


def _counts_neighbours(config: Experiment) -> bool:
    return config.stage == "pretrain" and config.probe.knn_epochs is not None


def _begin(folder: Path, config: Experiment, data: str) -> None:
    claim(folder, config, data)
    clear_scratch(folder)


def claim(folder: Path, config: Experiment, data: str) -> None:
    """A folder belongs to one experiment and its videos from the first step on; another must not continue it."""
    if (folder / DATA).exists():
        same_experiment(Experiment.load(folder / EXPERIMENT), config, str(folder))
        _same_data((folder / DATA).read_text(encoding="utf-8"), data, config, str(folder))
    write_text(folder / EXPERIMENT, config.to_yaml())


def require_same_run(folder: Path, config: Experiment) -> None:
    """Raises UsageError where the finished run in ``folder`` had other settings, or its lists have changed since."""
    same_experiment(Experiment.load(folder / EXPERIMENT), config, str(folder))
    if (folder / DATA).exists() and config.data.changed != "ok":
        begun = (folder / DATA).read_text(encoding="utf-8")
        if changed := _changed_data(begun, _data(*_indices(config)), str(folder)):
            raise UsageError(f"{changed}, and is finished; choose another --name to run with those of now")


def _data(train_index: VideoIndex, val_index: VideoIndex | None) -> str:
    """Which videos and labels a run learns from and is validated on, as JSON."""
    named = {"data.train": train_index, "data.val": val_index}
    return json.dumps(
        {name: {"videos": len(index.videos), "digest": index.digest()} for name, index in named.items() if index},
        indent=1,
    )


def _same_data(begun: str, now: str, config: Experiment, where: str) -> None:
    """Raises UsageError where a list has changed and may not have; says it where it may."""
    said = _changed_data(begun, now, where)
    if not said:
        return
    if config.data.changed != "ok":
        raise UsageError(f"{said}; choose another --name, or go on with the changed list: --data.changed ok")
    log.warning("%s; it goes on with those of now (data.changed ok)", said)


def _changed_data(begun: str, now: str, where: str) -> str:
    """What a list's videos were and are; empty where they are the same."""
    before, after = json.loads(begun), json.loads(now)
    changed = [
        f"{name} {before[name]['videos']} videos -> {after[name]['videos']}"
        for name in before.keys() & after.keys()
        if before[name]["digest"] != after[name]["digest"]
    ]
    return f"{where} was begun with other videos, labels or classes ({'; '.join(sorted(changed))})" if changed else ""


def _take_over(training: Training) -> Checkpoint | None:
    """Restores the newest checkpoint, which brings the numbers up to it along. Returns what the others need of it."""

    def use(checkpoint: Checkpoint) -> None:
        try:
            begun = Experiment.parse(yaml.safe_load(checkpoint.texts[EXPERIMENT]))
        except UsageError as error:
            raise Damaged(f"its {EXPERIMENT}: {error}") from None
        where = f"{training.config.name} (checkpoint {checkpoint.name})"
        same_experiment(begun, training.config, where)
        if DATA in checkpoint.texts and not training.metrics_file.with_name(DATA).exists():
            _same_data(checkpoint.texts[DATA], training.texts[DATA], training.config, where)
        training.restore(checkpoint)

    checkpoint = training.checkpoints.newest(use)
    if checkpoint:
        file = training.metrics_file
        if file.name in checkpoint.texts:  # those here may lack what was done elsewhere since
            write_text(file, checkpoint.texts[file.name])
    training.checkpoints.take_over(checkpoint)
    return checkpoint.outline() if checkpoint else None


def _prepare(
    config: Experiment,
    folder: Path,
    checkpoints: Checkpoints,
    tracker: Tracker,
    process: Process,
    stop: StopRequest,
    train_index: VideoIndex,
    val_index: VideoIndex | None,
) -> Training:
    choose_algorithms(config.optim.deterministic)
    seed_everything(config.seed, "weights")
    if config.stage == "pretrain":
        model: PretrainModel | Classifier = pretrain_model(config)
        loss: Loss = pretrain_loss
    else:
        model = classifier(config, len(_all_classes(config, train_index)))
        loss = FinetuneLoss(config.augment, model.head.out_features, str(process.device))
    if config.init:
        report = load_weights(model, config.init)
        if process.main:
            said = "; ".join([f"{len(report.loaded)} tensors taken, {len(report.missing)} new", *report.fitted])
            log.info("%s: %s", config.init, said)
    training = Training(
        config=config,
        model=model.to(process.device),
        loss=loss,
        index=train_index,
        process=process,
        checkpoints=checkpoints,
        tracker=tracker,
        stop=stop,
        metrics_file=folder / METRICS,
        classes=_class_names(config, train_index),
    )
    training.texts = {DATA: _data(train_index, val_index)}
    if process.main:
        training.begun = lambda: write_text(folder / DATA, training.texts[DATA])
        training.pictures = Pictures(val_index or train_index, folder / FIGURES)
    if config.stage == "finetune" and val_index:
        training.validate = lambda: _test(training, val_index, 1, 1).metrics("val")
        training.validate_epochs = config.evaluate.every_epochs
    elif _counts_neighbours(config):
        labelled = alike_labelled(train_index, val_index, config)
        training.validate = lambda: measure_knn(training.model, train_index, labelled, config, process, stop)
        training.validate_epochs = config.probe.knn_epochs or 0
    return training


def _test(training: Training, index: VideoIndex, segments: int, crops: int) -> Evaluation:
    t = training
    assert isinstance(t.model, Classifier)
    return evaluate(t.model, index, t.config, t.process, t.stop, segments, crops)


def _finish(training: Training, folder: Path, val_index: VideoIndex | None) -> Result:
    t, config = training, training.config
    tested = None
    if config.stage == "finetune" and val_index:
        tested = _test(t, val_index, config.evaluate.segments, config.evaluate.crops)
        t.report(tested.metrics("test"), t.steps)
    t.settle()
    exported = t.exported()
    result = Result(config.name, t.steps, t.latest, str(folder / "model"))
    if not t.process.main:
        return result
    save_model(folder / "model", exported)
    t.show_pictures(to_the_end=True)
    _final_figures(t, exported, tested, val_index or t.index, folder / FIGURES)
    address = t.tracker.model(folder / "model", config.name) if config.stage == "finetune" else None
    return replace(result, address=address)


def _final_figures(
    training: Training, exported: Exported, tested: Evaluation | None, index: VideoIndex, folder: Path
) -> None:
    from everest.figures import draw, draw_confusion  # drags in matplotlib

    t = training
    drawn: list[Path] = []
    _first_readable(exported, index, lambda video: drawn.extend(draw(exported, video, folder)))
    for picture in drawn:
        t.tracker.artifact(picture, FIGURES)
    if tested:
        draw_confusion(tested.confusion, t.classes, folder / "confusion.png")
        with (
            whole_file(folder / "confusion.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(["true class", *t.classes])
            table.writerows([name, *counts] for name, counts in zip(t.classes, tested.confusion.tolist(), strict=True))
        for name in ("confusion.png", "confusion.csv"):
            t.tracker.artifact(folder / name, FIGURES)


def _first_readable(exported: Exported, index: VideoIndex, draw: Callable[[Video], None]) -> None:
    """Draws it, unless there is none."""
    was_training = exported.model.training
    exported.model.eval()
    for video in index.videos:
        with suppress(DecodeError):
            draw(video)
            break
    exported.model.train(was_training)


def _class_names(config: Experiment, index: VideoIndex) -> tuple[str, ...]:
    if config.stage == "pretrain":
        return ()
    return _all_classes(config, index)


def _describe_data(config: Experiment, tracker: Tracker, train_index: VideoIndex, val_index: VideoIndex | None) -> None:
    for index, context in ((train_index, "training"), (val_index, "evaluation")):
        if index:
            tracker.dataset(config.dataset, str(index.source), index.digest(), len(index.videos), context)


def _summary(training: Training) -> str:
    t, batch = training, training.config.optim.batch_size
    precision = "bfloat16" if in_bfloat16(t.config, t.process.device) else "float32"
    if compiles(t.config, t.process.device):
        precision += ", compiled"
    millions = sum(parameter.numel() for parameter in t.model.parameters()) / 1e6
    return (
        f"{len(t.index.videos)} videos, {t.steps} steps of {batch} clips, {millions:.1f} M parameters, "
        f"{t.process.world} process{'es' if t.process.world > 1 else ''} on {t.process.device.type}, {precision}"
    )
