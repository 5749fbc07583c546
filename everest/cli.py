"""The ``everest`` command. Any setting of the experiment is ``--dotted.name value``.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted (Ctrl-C, SIGTERM) with everything saved, 71 this
machine has failed the check before the first step.
"""

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

from everest.arguments import nothing_left, overrides
from everest.cli_compare import add_compare_arguments, compare
from everest.cli_cost import add_cost_arguments, add_plan_arguments, cost, plan
from everest.cli_data import add_data_commands
from everest.cli_find import add_find_command, find
from everest.cli_probe import add_probe_arguments, run_probe
from everest.config import Experiment
from everest.errors import EverestError, UsageError
from everest.leave import leave
from everest.program import all_done, doing, exit_code, naming


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    try:
        code = command(arguments)
    except Exception:
        traceback.print_exc()
        code = EverestError.exit_code
    leave(code)


def command(arguments: Sequence[str] | None = None) -> int:
    """Does what they say. Returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's idle threads leave the cores to decoding
    return exit_code("everest", lambda: _run(arguments), main=os.environ.get("RANK", "0") == "0")


def _run(arguments: Sequence[str] | None) -> None:
    options, rest = _parser().parse_known_args(arguments)
    with doing(options.doing):
        options.run(options, rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="everest", description="Masked video autoencoders without redundant tokens.")
    parser.add_argument("--version", action="version", version=version("everest-video"))
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    settings = "any setting of the experiment can follow as --dotted.name value; --print-config shows them all"

    def command(name: str, run: Callable[..., None], summary: str, **more: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False, **more)
        added.set_defaults(run=run, doing=name)
        return added

    for stage in ("pretrain", "finetune"):
        added = command(stage, _train, f"{stage} on a list or folder of videos", epilog=settings)
        added.set_defaults(stage=stage)
        added.add_argument("--recipe", metavar="NAME|FILE", help="start from a shipped recipe or a YAML file")
        add_plan_arguments(added)
        added.add_argument("--print-config", action="store_true", help="print the whole experiment and stop")

    add_cost_arguments(command("cost", cost, "what a recipe costs, and others beside it", epilog=settings))

    add_compare_arguments(command("compare", compare, "methods at equal budgets, with intervals", epilog=settings))

    added = command("evaluate", _evaluate, "test a fine-tuned run on its validation list, or another", epilog=settings)
    added.add_argument("model", type=Path, help="a run's folder, or an exported model")

    summary = "judge a frozen encoder by nearest neighbours and a linear classifier on its features"
    add_probe_arguments(command("probe", run_probe, summary, epilog=settings))

    added = command("predict", _predict, "classify videos")
    added.add_argument("model", help="models:/NAME@ALIAS, a run's folder, or an exported model")
    added.add_argument("videos", nargs="+", metavar="VIDEO")
    added.add_argument("--start", type=float, default=0.0, metavar="S", help="of the part to classify, in seconds (0)")
    added.add_argument("--end", type=float, metavar="S", help="of that part (the video's end)")
    added.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (5)")
    added.add_argument("--json", action="store_true", help="all classes, as one JSON object per video")

    added = command("figures", _figures, "draw what a model keeps, sees and reconstructs of a video")
    added.add_argument("model", type=Path, nargs="?", help="a run's folder, or an exported model (the newest run)")
    added.add_argument("--video", nargs="+", required=True, help="videos, folders of them, or packed sets")
    added.add_argument("--out", type=Path, metavar="FOLDER", help="default: figures/ in the model's folder")

    add_find_command(command("find", find, "where something happens in long videos: a timeline and its best parts"))

    added = command("doctor", _doctor, "check what this environment has and lacks: GPUs, cluster, S3, MLflow, database")
    added.add_argument("--pull", action="store_true", help="let the cluster pull the image, in a pod that ends at once")
    added.add_argument("--tell", action="store_true", help="send the webhook a test message")

    add_data_commands(command("data", lambda *_: None, "check or make data sets"))
    return parser


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    config = _experiment(options.recipe, options.stage, overrides(rest))
    if options.print_config:
        print(config.to_yaml(), end="")
        return
    if options.plan:
        plan(config, options.videos, options.rate)
        return
    from everest.data.workers import start_early

    if config.data.workers:
        start_early(config)
    from everest.plugins import load_plugin
    from everest.progress import start_logging
    from everest.protocols import NullTracker, Tracker
    from everest.settings import LocalSettings
    from everest.training.device import choose_device
    from everest.training.distributed import processes
    from everest.training.interrupt import stop_requests
    from everest.training.local import METRICS, FolderStore, JsonLinesTracker, Trackers
    from everest.training.run import Result, require_same_run, run

    settings = LocalSettings.load()
    folder = settings.work / config.name
    with processes(choose_device(settings.device)) as process, stop_requests() as stop:
        start_logging(process.main)
        result = Result.read(folder)
        if result is None:
            tracker: Tracker = NullTracker()
            if process.main:
                lines = JsonLinesTracker(folder / METRICS)
                named = settings.tracker
                tracker = lines if named == "none" else Trackers(lines, load_plugin("trackers", named)(config, folder))
            result = run(config, folder, FolderStore(folder / "checkpoints"), tracker, process, stop)
        elif process.main:
            require_same_run(folder, config)
            print(f"{folder} is finished already; remove it or choose another --name to run again", file=sys.stderr)
        if process.main:
            _print_result(result, folder)


def _print_result(result: Any, folder: Path) -> None:
    for name, value in sorted(result.metrics.items()):
        print(f"{name:24} {value:.4g}")
    print(f"{'steps':24} {result.steps}")
    print(f"{'figures':24} {folder / 'figures'}")
    print(f"{'model':24} {result.model}")
    if result.address:
        print(f"{'registered':24} {result.address}")


def _experiment(recipe: str | None, stage: Literal["pretrain", "finetune"], changes: dict[str, Any]) -> Experiment:
    if recipe is None:
        return Experiment().override({"stage": stage, **changes})
    config = Experiment.load(recipe).override(changes)
    if config.stage != stage:
        raise UsageError(f"recipe {recipe} is for everest {config.stage}, not everest {stage}")
    return config


def _evaluate(options: argparse.Namespace, rest: list[str]) -> None:
    changes = overrides(rest)
    from everest.data.index import read_index
    from everest.data.shared_memory import require_shared_memory
    from everest.export import load_model
    from everest.model.classifier import Classifier
    from everest.progress import start_logging
    from everest.settings import LocalSettings
    from everest.training.device import choose_device
    from everest.training.distributed import processes
    from everest.training.evaluate import evaluate
    from everest.training.interrupt import stop_requests

    exported = load_model(options.model)
    if not isinstance(exported.model, Classifier):
        raise UsageError(f"{options.model} is a pre-trained autoencoder; only a fine-tuned classifier can be tested")
    config = exported.config.override(changes)
    if config.model != exported.config.model or config.classify != exported.config.classify:
        raise UsageError("the settings of the trained model itself (model.*, classify.*) cannot be changed now")
    if config.data.val is None:
        raise UsageError("data.val is not set; add --data.val LIST")
    index = read_index(config.data.val, config.data.root)
    index.require_labels()
    index = index.with_classes(exported.classes)
    with processes(choose_device(LocalSettings.load().device)) as process, stop_requests() as stop:
        start_logging(process.main)
        tests = config.evaluate
        views = [(tests.segments, tests.crops)]
        process.together(lambda: require_shared_memory(config, training=False, tests=views))
        model = exported.model.to(process.device)
        result = evaluate(model, index, config, process, stop, tests.segments, tests.crops)
        if process.main:
            print(f"{result.videos} videos, {tests.segments} segments x {tests.crops} crops, {result.bad} unreadable")
            for name, value in result.metrics("test").items():
                print(f"{name:24} {value:.4g}")


def _predict(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    window = options.start, options.end
    if not 0 <= options.start < (math.inf if options.end is None else options.end):
        end = "" if options.end is None else f" --end {options.end:g}"
        raise UsageError(f"--start {options.start:g}{end}: must be seconds, the start before the end")
    from everest.data.files import VideoFile, window_name
    from everest.plugins import load_plugin
    from everest.predict import Predictor

    scheme, colon, _ = options.model.partition(":/")
    predict = load_plugin("models", scheme)(options.model) if colon else Predictor(Path(options.model))
    failed = 0
    for given in options.videos:
        part, video = VideoFile(Path(given), None, *window), f"{given}{window_name(*window)}"
        try:
            probabilities = predict(part)
        except (EverestError, OSError) as error:
            failed += 1
            print(f"everest: {naming(part.name, error)}", file=sys.stderr)
            continue
        if options.json:
            print(json.dumps({"video": video, "probabilities": probabilities}))
            continue
        print(video)
        for name, probability in list(probabilities.items())[: options.top]:
            print(f"  {probability:6.1%}  {name:24} {_bar(probability)}")
    all_done(failed, len(options.videos))


def _bar(share: float) -> str:
    mark = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    return mark * round(30 * share)


def _doctor(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.plugins import load_plugin

    sys.exit(load_plugin("commands", "doctor")(options.pull, options.tell))


def _figures(options: argparse.Namespace, rest: list[str]) -> None:
    nothing_left(rest)
    from everest.data.decode import DecodeError
    from everest.export import load_model
    from everest.figures import distinct_names, draw

    model = options.model or _newest_run()
    exported = load_model(model)
    videos = {path: video for given in options.video for path, video in _videos_at(given)}
    folder = options.out or model / "figures"
    names, failed = distinct_names(list(videos), folder), 0
    for path, video in videos.items():
        try:
            pictures = draw(exported, video, folder, names[path], path)
        except (DecodeError, EverestError) as error:
            failed += 1
            print(f"everest: {naming(path, error)}", file=sys.stderr)
            continue
        print(*pictures, sep="\n")
    all_done(failed, len(videos))


def _videos_at(given: str) -> Iterator[tuple[Path, Any]]:
    """A video, those of a folder, or those of a packed set; each with a path that tells it from others."""
    from everest.data.index import VideoFile, read_files, read_packed
    from everest.data.packed.manifest import is_packed

    path = Path(given)
    if is_packed(given):
        yield from ((path / video.name, video) for video in read_packed(given).videos)
    elif path.is_dir():
        yield from ((video.path, video) for video in read_files(path).videos)
    else:
        yield path, VideoFile(path, None)


def _newest_run() -> Path:
    from everest.settings import LocalSettings

    work = LocalSettings.load().work
    finished = sorted(work.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    if not finished:
        raise UsageError(f"{work} has no finished run; name a run's folder or an exported model before --video")
    return finished[-1].parent
