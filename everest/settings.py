"""Where things go on this machine: from EVEREST_* variables or .env, never part of an experiment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class LocalSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EVEREST_", env_file=".env", extra="ignore", frozen=True)

    work: Path = Field(Path("work"), description="runs, the synthetic set and the local MLflow live below it")
    tracker: str = Field("mlflow", description="an installed tracker, or none: only JSON lines")
