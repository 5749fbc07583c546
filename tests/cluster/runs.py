"""Small experiments for jobs, and what they left in S3 and MLflow."""

import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from everest.training.saved import SavedCheckpoints
from orchestration.s3 import S3Store
from orchestration.settings import PlatformSettings
from tests.cluster.platform import Platform
from tests.services import S3, experiments, until


def tiny(steps: int, **changes: object) -> list[str]:
    """A demo recipe made so small that eight processes on two cores run it, with ``optim.micro_batch`` 1."""
    settings = {
        "data.train": "/data/train.csv", "data.val": "/data/val.csv", "data.workers": 0, "data.rate": 1,
        "model.image_size": 32, "model.num_frames": 4, "model.embed_dim": 48, "model.depth": 2,
        "model.decoder_embed_dim": 24, "model.decoder_depth": 1, "optim.batch_size": 8, "optim.micro_batch": 4,
        "optim.steps": steps, "init": "null", "keep.checkpoint_steps": 10, "keep.log_steps": 2,
        "keep.picture_epochs": 0, "evaluate.every_epochs": 100000, "evaluate.segments": 1,
        **changes,
    }  # fmt: skip
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def open_store(platform: Platform, run: str) -> S3Store:
    settings = PlatformSettings(
        s3_endpoint=S3, s3_bucket=platform.environment["EVEREST_S3_BUCKET"], s3_prefix=platform.prefix, patience_s=300
    )
    return S3Store(settings, run)


def checkpoints(platform: Platform, run: str) -> list[str]:
    """Complete ones, the oldest first."""
    store = open_store(platform, run)
    found = sorted(key.partition("/")[0] for key in store.list() if key.endswith("/manifest.json"))
    store.close()
    return found


def pointer(platform: Platform, run: str, name: str) -> Any:
    store = open_store(platform, run)
    said = store.read(f"{name}.json")
    store.close()
    return json.loads(said) if said else None


def weights(platform: Platform, run: str) -> dict[str, Tensor]:
    """Of the newest checkpoint, every sum of which is right."""
    store = open_store(platform, run)
    with tempfile.TemporaryDirectory() as folder:
        name = SavedCheckpoints(store, Path(folder)).fetch_newest(Path(folder))
        assert name == checkpoints(platform, run)[-1]
        store.close()
        return load_file(Path(folder) / "model.safetensors")


def mlflow_runs(platform: Platform, run: str) -> tuple[Any, list[Any]]:
    """A client, and the runs MLflow has of that name."""
    import mlflow

    client = mlflow.MlflowClient(platform.mlflow.address)
    there = experiments(client)
    return client, list(client.search_runs(there, f"tags.`everest.run` = '{run}'")) if there else []


def logged_steps(platform: Platform, run: str, metric: str = "train/loss") -> list[int]:
    """Of the one MLflow run there must be, as MLflow has them."""
    client, (found,) = mlflow_runs(platform, run)
    return sorted(entry.step for entry in client.get_metric_history(found.info.run_id, metric))


def steps_per_s(platform: Platform, run: str) -> float:
    """How fast that run was here, from its first to its last logged step."""
    client, (found,) = mlflow_runs(platform, run)
    entries = sorted((e.step, e.timestamp) for e in client.get_metric_history(found.info.run_id, "train/loss"))
    (first, begun), (last, ended) = entries[0], entries[-1]
    return (last - first) / ((ended - begun) / 1000)


def wait_for_step(platform: Platform, run: str, step: int) -> None:
    """Until MLflow has heard of that step."""

    def reached() -> bool:
        _, runs = mlflow_runs(platform, run)
        metrics = runs[0].data.to_proto().metrics if runs else []
        return any(metric.key == "train/loss" and metric.step >= step for metric in metrics)

    until(reached, f"step {step} of {run}")
