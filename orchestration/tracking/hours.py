"""What a run has taken of GPUs, with all its starts, as metrics of the run in MLflow."""

import time

import mlflow
from mlflow.entities import Metric

from orchestration.hours import stays_of, sums
from orchestration.settings import PlatformSettings

GPU_HOURS, MONEY, STARTS = "cost/gpu_hours", "cost/money", "cost/starts"


def log_hours(settings: PlatformSettings, run: str, run_id: str) -> None:
    """``cost/money`` only where a price is set. Raises EverestError, MlflowException."""
    spent = sums(stays_of(settings, {run}), lambda stay: stay.run, settings.gpu_hour_price).get(run)
    if spent is None:
        return
    values = {GPU_HOURS: spent.gpu_hours, STARTS: float(spent.starts)}
    values |= {} if spent.money is None else {MONEY: spent.money}
    now = int(time.time() * 1000)
    mlflow.MlflowClient().log_batch(run_id, [Metric(name, value, now, 0) for name, value in values.items()])
