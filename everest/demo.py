"""The table at the end of ``make demo``, from what the runs measured."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from everest.config import Experiment, token_count
from everest.errors import UsageError
from everest.settings import LocalSettings
from everest.training.run import Result


def main() -> None:
    work = LocalSettings().work
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = _clips(work) if sys.argv[1:] == ["clips"] else _synthetic(work)
    for name, value in rows:
        table.add_row(name, value)
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    console.print(table)
    console.print("\n  make ui   opens the runs, pictures and models in MLflow\n")


def _synthetic(work: Path) -> list[tuple[str, str]]:
    tuned, scratch = _result(work / "demo-finetune"), _result(work / "demo-scratch")
    classes = len((work / "demo" / "classes.txt").read_text().split())
    model = Experiment.load(work / "demo-finetune" / "experiment.yaml")
    kept = token_count(model.classify.keep_ratio, model.model.tokens)
    return [
        *_pretraining(work / "demo-pretrain"),
        ("top-1 fine-tuned", f"{tuned.metrics['test/top1']:.1%}"),
        ("top-1 from scratch", f"{scratch.metrics['test/top1']:.1%}   (the same budget, no pre-training)"),
        ("chance", f"{1 / classes:.1%}   ({classes} classes)"),
        (
            "fine-tuning speed",
            f"{tuned.metrics['perf/clips_per_s']:.0f} clips/s, {kept} of {model.model.tokens} tokens",
        ),
        ("registered model", str(tuned.address)),
        ("its pictures", str(work / "demo-finetune" / "figures")),
    ]


def _clips(work: Path) -> list[tuple[str, str]]:
    return _pretraining(work / "clips-pretrain")


def _pretraining(folder: Path) -> list[tuple[str, str]]:
    result, config = _result(folder), Experiment.load(folder / "experiment.yaml")
    counts = config.mask.counts(config.model.steps, config.model.places)
    return [
        ("pre-training loss", f"{result.metrics['train/loss']:.3f} after {result.steps} steps"),
        ("pre-training speed", f"{result.metrics['perf/clips_per_s']:.0f} clips/s"),
        ("kept tokens", f"{counts.kept} of {config.model.tokens}, {counts.visible} of them visible"),
        ("pictures", str(folder / "figures")),
    ]


def _result(folder: Path) -> Result:
    result = Result.read(folder)
    if result is None:
        raise UsageError(f"{folder} is not finished")
    return result


if __name__ == "__main__":
    main()
