"""What a person sees of a run in MLflow: its experiment, its name, its tags, its description."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from everest.config import Experiment
from everest.program import printable
from orchestration.job import EXPERIMENT
from orchestration.settings import PlatformSettings

RUN, STAGE, DATASET, RECIPE, MODEL = (f"everest.{name}" for name in ("run", "stage", "dataset", "recipe", "model"))
JOB, NAMESPACE, NODE, IMAGE, ADDRESS = (f"everest.{name}" for name in ("job", "namespace", "node", "image", "address"))
SUBMISSION, CODE, IDLE = "everest.submission", "everest.code", "everest.idle"
USER = "mlflow.user"  # MLflow's own, which its pages show
TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # which pages MLflow offers for an experiment
NOTE, PARENT, COMMIT = "mlflow.note.content", "mlflow.parentRunId", "mlflow.source.git.commit"

_RESULTS = ("test/top1", "test/top5", "val/top1", "train/loss")


def results(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that a person asks for first."""
    return {name: metrics[name] for name in _RESULTS if name in metrics}


def run_page(server: str, experiment: str, run: str) -> str:
    """Where a browser shows it."""
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def experiment_name(settings: PlatformSettings, config: Experiment, tags: Mapping[str, str]) -> str:
    """One for each data set and phase; a sweep's runs are together with it, so that MLflow shows them as a tree."""
    return printable(f"{settings.mlflow_experiment}/{tags.get(EXPERIMENT) or f'{config.dataset}/{config.stage}'}")


def run_name(config: Experiment) -> str:
    """demo-finetune · keeps 0.6 · 5 epochs · from demo-pretrain"""
    if config.stage == "pretrain":
        share = f"sees {config.mask.visible_ratio:.4g} of {config.mask.keep_ratio:.4g}"
    else:
        share = f"keeps {config.classify.keep_ratio:.4g}"
    length = f"{config.optim.steps} steps" if config.optim.steps else f"{config.optim.epochs} epochs"
    origin = f"from {config.init.name}" if config.init else "from scratch"
    return " · ".join([config.name, share, length, origin])


def run_tags(config: Experiment) -> dict[str, str]:
    """For filtering: tags.`everest.dataset` = 'ucf101'."""
    model = config.model
    tags = {
        RUN: config.name,
        STAGE: config.stage,
        DATASET: config.dataset,
        RECIPE: config.recipe,
        MODEL: f"vit-{model.embed_dim}x{model.depth} {model.num_frames}x{model.image_size}",
    }
    return {name: value for name, value in tags.items() if value}


def run_note(
    config: Experiment, tags: Mapping[str, str], metrics: Mapping[str, float], settings: PlatformSettings
) -> str:
    """Markdown."""
    model, optim = config.model, config.optim
    what = "Pre-training" if config.stage == "pretrain" else "Fine-tuning"
    clips = f"{model.num_frames} frames of {model.image_size} px"
    rows: dict[str, Any] = {
        "result": ", ".join(f"{name} **{value:.4g}**" for name, value in results(metrics).items()),
        "cost": _cost(metrics),
        "speed": _speed(metrics),
        "recipe": _code(config.recipe or "settings of its own"),
        "network": f"ViT of {model.depth} blocks, width {model.embed_dim}; clips of {clips}",
        "starts from": _code(config.init) if config.init else "random weights",
        "length": f"{optim.steps} steps" if optim.steps else f"{optim.epochs} epochs",
        "commit": _code(tags.get(COMMIT)),
        "image": _code(tags.get(IMAGE)),
        "checkpoints": _checkpoints(tags[ADDRESS], settings) if ADDRESS in tags else None,
        "job": _job(tags),
    }
    return "\n".join([f"{what} on **{config.dataset}**", "", *_table(rows)])


def version_note(run_link: str, address: str, metrics: Mapping[str, float], datasets: Mapping[str, str]) -> str:
    """Markdown for the page of a model's version: what it was promoted on, and where it comes from."""
    rows: dict[str, Any] = {name: f"**{value:.4g}**" for name, value in sorted(metrics.items())}
    rows |= {"run": run_link, "weights": _code(address)}
    rows |= {name.removeprefix("everest.dataset."): _code(value) for name, value in datasets.items()}
    return "\n".join(_table(rows))


def run_link(name: str, experiment: str, run: str) -> str:
    return f"[{name}](#/experiments/{experiment}/runs/{run})"


def _table(rows: Mapping[str, Any]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items() if value)]


def _code(value: object) -> str | None:
    return f"`{value}`" if value else None


def _checkpoints(address: str, settings: PlatformSettings) -> str | None:
    """A link to AWS's console; other servers have no page that a browser could open."""
    if settings.s3_endpoint or not address.startswith("s3://"):
        return _code(address)
    parts = urlsplit(address)
    console = f"https://s3.console.aws.amazon.com/s3/buckets/{parts.netloc}?prefix={parts.path[1:]}"
    return f"[{address}]({console})"


def _job(tags: Mapping[str, str]) -> str | None:
    if not tags.get(JOB):
        return None
    namespace = tags.get(NAMESPACE, "default")
    return f"`{namespace}/{tags[JOB]}`: `everest-jobs logs {tags[JOB]} --namespace {namespace}`"


def _cost(metrics: Mapping[str, float]) -> str:
    said = []
    if "cost/process_hours" in metrics:
        said.append(f"{metrics['cost/process_hours']:.3g} hours of a GPU or process")
    if "cost/gflops_per_clip" in metrics:
        said.append(f"{metrics['cost/gflops_per_clip']:.3g} GFLOPs a clip")
    return ", ".join(said)


def _speed(metrics: Mapping[str, float]) -> str:
    said = []
    if "perf/clips_per_s" in metrics:
        said.append(f"{metrics['perf/clips_per_s']:.3g} clips/s")
    if "perf/data_wait" in metrics:
        said.append(
            f"{metrics['perf/data_wait']:.0%} of the time waiting for data (the steps alone "
            f"{metrics['perf/step_clips_per_s']:.3g} clips/s, the workers {metrics['perf/loader_clips_per_s']:.3g})"
        )
    return ", ".join(said)
