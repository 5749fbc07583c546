"""Where runs are tracked: from EVEREST_* variables or .env."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PlatformSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EVEREST_", env_file=".env", extra="ignore", frozen=True)

    work: Path = Field(Path("work"), description="folder of the local MLflow's database and artifacts")
    mlflow_uri: str | None = Field(None, description="tracking server; None: sqlite in the work folder")
    mlflow_experiment: str = "everest"
    model_alias: str = Field("candidate", description="alias that a newly registered classifier gets")

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.work.resolve() / 'mlflow.db'}"

    @property
    def artifact_location(self) -> str | None:
        """Where a local MLflow keeps artifacts; a server decides that itself."""
        return None if self.mlflow_uri else (self.work.resolve() / "mlflow-artifacts").as_uri()
