"""Where things go on this machine: from EVEREST_* variables or .env, never part of an experiment."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from everest.errors import UsageError


class LocalSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EVEREST_", env_file=".env", extra="ignore", frozen=True)

    work: Path = Field(Path("work"), description="runs, the synthetic set and the local MLflow live below it")
    tracker: str = Field("mlflow", description="an installed tracker, or none: only JSON lines")
    device: Literal["auto", "gpu", "cpu"] = Field(
        "auto", description="auto: GPUs where there are some or a job has some"
    )

    @classmethod
    def load(cls) -> "LocalSettings":
        """Raises UsageError with one line that names the setting."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise UsageError(f"EVEREST_{str(first['loc'][0]).upper()} = {first['input']!r}: {message}") from None
