"""Where experiments run and where their results go: from EVEREST_* variables, ``.env`` or flags."""

import getpass
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from everest.errors import UsageError
from everest.patterns import matching
from orchestration.addresses import address, shown

Name = Annotated[
    str,
    matching(
        r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?",
        "must be a name in Kubernetes: small letters, digits, '-' and '.', a letter or digit at both ends",
    ),
]
Quantity = Annotated[
    str,
    matching(r"\d+(\.\d+)?(m|[kKMGT]i?)?", "must be a number, with a unit of Kubernetes or none, as 500m, 32 or 200Gi"),
]
ResourceName = Annotated[
    str,
    matching(
        r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?",
        "must be a resource's name in Kubernetes, as nvidia.com/gpu",
    ),
]
ModelName = Annotated[
    str,
    matching(
        r"\w([\w. -]{0,254}\w)?",
        "must be 1 to 256 letters, digits, '_', '.', '-' and blanks, none of the last three at an end",
    ),
]
Alias = Annotated[
    str,
    matching(
        r"(?!(?i:latest)$|[vV]\d+$)[\w-]{1,255}",
        "must be 1 to 255 letters, digits, '_' and '-', and not latest or v1, v2, …, which MLflow keeps for itself",
    ),
]
Positive = Annotated[int, Field(gt=0)]


def _rising(nodes: str) -> str:
    least, most = _ends(nodes)
    if least > most:
        raise PydanticCustomError("form", "must be the smaller number first, as 2..4")
    return nodes


def _ends(nodes: str) -> tuple[int, int]:
    least, _, most = nodes.partition("..")
    return int(least), int(most or least)


Nodes = Annotated[
    str, matching(r"[1-9]\d{0,3}(\.\.[1-9]\d{0,3})?", "must be a number, or two as 2..4"), AfterValidator(_rising)
]
NodeNames = Annotated[
    str,
    matching(
        r"[a-z0-9][a-z0-9.-]{0,252}(,[a-z0-9][a-z0-9.-]{0,252})*", "must be names of nodes, with ',' between them"
    ),
]
Bucket = Annotated[
    str,
    matching(
        r"(?!xn--|.*\.\.|[0-9]+(\.[0-9]+){3}$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "must be a bucket's name: 3 to 63 small letters, digits, '-' and single '.', a letter or digit at both ends",
    ),
]
Region = Annotated[str, matching(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", "must be a region, as us-east-1")]
Server = Annotated[str, address("http://", "https://")]
Tracking = Annotated[str, address("http://", "https://", "postgresql://", "sqlite:///")]
Studies = Annotated[str, address("postgresql://", "sqlite:///", "journal:")]
Database = Annotated[str, address("postgresql://")]


def bytes_of(quantity: str) -> int:
    """Of a Quantity of memory or disk."""
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", quantity).groups()  # type: ignore[union-attr]
    base = 1024 if unit.endswith("i") else 1000
    return int(float(number) * (base ** " kMGT".index(unit[0].replace("K", "k")) if unit and unit != "m" else 1))


def variable(name: str) -> str:
    """A setting as people give it."""
    return f"EVEREST_{name.upper()} (--{name.replace('_', '-')})"


def check_argument(name: str, value: str, form: Any) -> None:
    """For what is a flag and no setting. Raises UsageError with one line that names it."""
    try:
        TypeAdapter(form).validate_python(value)
    except ValidationError as error:
        raise UsageError(f"{name} {value!r}: {error.errors()[0]['msg']}") from None


def sqlite_uri(file: Path) -> str:
    """Its address for SQLAlchemy, whatever characters the path has."""
    return f"sqlite:///{str(file.resolve()).replace('%', '%25').replace('?', '%3F')}"


def user_here() -> str:
    """Who this machine says that one is."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number that has no name, as in a container
        return str(os.getuid())


class PlatformSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="EVEREST_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    work: Path = Field(Path("work"), description="folder of local runs, of the local MLflow's database and artifacts")

    context: str | None = Field(None, description="kubeconfig context; None: the current one")
    namespace: Name = Field("default", description="namespace that jobs run in")
    image: str = Field("everest:latest", min_length=1, description="of the pods; pin it by @sha256:… for the record")
    pull_secret: Name | None = Field(None, description="Secret for pulling the image")
    service_account: Name = Field("default", description="that pods run under; it needs no rights, gets no token")
    sweep_account: Name | None = Field(
        None, description="that a sweep's controller in the cluster runs under; None: one of its own is made"
    )
    nodes: Nodes = Field("1", description="pods; 2..4: at least 2 and at most 4, as many as there is room for")
    gpus: int = Field(8, ge=0, description="GPUs of a pod; 0: it trains on its cores")
    gpu_resource: ResourceName = Field(
        "nvidia.com/gpu", description="what the cluster calls its GPUs, as node status shows it"
    )
    processes: Positive | None = Field(None, description="training processes of a pod; None: one a GPU, at least one")
    cpu: Quantity = Field("32", description="cores a pod asks for")
    memory: Quantity = Field("200Gi", description="of a pod, asked for and limit")
    shm: Quantity = Field("32Gi", description="size of /dev/shm, counted as memory")
    data: str | None = Field(None, description="volume of videos: pvc:NAME, or a path of the node; None: none")
    data_mount: Annotated[str, matching("/.*", "must begin with /")] = Field(
        "/data", description="where the pod finds that volume, read-only"
    )
    operator: Literal["auto", "pytorchjob", "trainjob"] = Field(
        "auto",
        description="what makes the pods of a job: pytorchjob (Kubeflow's training operator), trainjob (Kubeflow "
        "Trainer); auto: what the cluster has, the first where it has both",
    )
    priority_class: Name | None = None
    queue: Name | None = Field(None, description="Kueue's LocalQueue")
    queue_priority: Name | None = Field(
        None, description="Kueue's WorkloadPriorityClass: who goes first in the queue, and preempts whom"
    )
    ttl_s: int = Field(7 * 86400, ge=0, description="seconds that a finished job stays to be looked at")
    deadline_s: Positive | None = Field(None, description="seconds after which a job is ended")
    backoff_limit: int = Field(3, ge=0, description="restarts without a new checkpoint in between")
    grace_s: int = Field(300, ge=30, description="seconds a pod that must go has for its last checkpoint")
    node_lost_s: int = Field(60, ge=0, description="seconds that pods stay on a node that does not answer")
    avoid_nodes: NodeNames | None = Field(None, description="nodes that pods keep away from: node3,node5")
    stall_steps: float = Field(
        20,
        ge=0,
        description="usual steps without a sign of life after which a process stands still: its stacks are kept, and "
        "the pod's processes begin again; 0: never",
    )
    stall_s: float = Field(300, gt=0, description="seconds that this is at least")
    stall_slow_s: float = Field(
        1800,
        gt=0,
        description="the same while it starts, compiles, validates, saves or waits for a server; at least twice the "
        "patience",
    )
    idle_percent: float = Field(
        5, ge=0, le=100, description="utilisation in percent under which a job's GPUs idle, which is said; 0: never"
    )
    idle_s: float = Field(3600, gt=0, description="seconds that this is the mean of")
    idle_end: bool = Field(False, description="end a job of the cluster whose GPUs idle, after a last checkpoint")
    user: Annotated[
        str,
        matching(
            r"\w([\w.@+ -]{0,61}\w)?",
            "must be a name of letters, digits, '_', '.', '@', '+', '-' and blanks, a letter or digit at both ends",
        ),
    ] = Field(default_factory=user_here, description="who submits, in MLflow, lists and messages")
    pod_patch: Path | None = Field(None, description="YAML file merged strategically into every pod")

    s3_endpoint: Server | None = Field(None, description="address of the S3 server; None: AWS")
    s3_bucket: Bucket | None = Field(None, description="where checkpoints go")
    s3_prefix: Annotated[
        str,
        matching(r"\w[\w.-]*(/\w[\w.-]*)*", "must be names of letters, digits, '_', '.' and '-', with / between them"),
    ] = Field("everest", description="folder in the bucket")
    s3_region: Region = "us-east-1"
    s3_secret: Name | None = Field(None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    patience_s: Positive = Field(900, description="seconds to wait at the end for a server that is away")

    cache: Path | None = Field(
        None, description="folder for copies of what is read from S3; None: cache in the work folder"
    )
    cache_size: Quantity = Field("50Gi", description="the most that copies of packed sets take there")

    mlflow_uri: Tracking | None = Field(None, description="tracking server; None: sqlite in the work folder")
    mlflow_experiment: Annotated[
        str, matching(r"\w[\w./ -]*", "must be letters, digits, '_', '.', '/', '-' and blanks, a letter or digit first")
    ] = Field(
        "everest",
        description="before the names of MLflow's experiments: everest/DATASET/PHASE",
    )
    mlflow_secret: Name | None = Field(
        None, description="Secret with MLFLOW_TRACKING_USERNAME and …_PASSWORD or _TOKEN"
    )
    notify_secret: Name | None = Field(
        None,
        description="Secret with EVEREST_WEBHOOK, the address that is told how jobs and sweeps go; here that variable "
        "itself",
    )
    studies: Studies | None = Field(
        None,
        description="database of sweeps: postgresql://…, sqlite:///FILE, journal:FILE; None: sqlite in the work folder",
    )
    studies_secret: Name | None = Field(None, description="Secret with PGPASSWORD, for a controller in the cluster")
    pod_s3_endpoint: Server | None = Field(None, description="as pods reach it, where that differs")
    pod_mlflow_uri: Server | None = Field(None, description="as pods reach it, where that differs")
    pod_studies: Database | None = Field(
        None, description="as a controller in the cluster reaches it, where that differs"
    )
    gpu_hour_price: float | None = Field(
        None, ge=0, description="of an hour of a GPU, in whatever money: what runs cost is said too"
    )
    model_alias: Alias = Field("candidate", description="alias that a newly registered classifier gets")

    @classmethod
    def load(cls, **flags: Any) -> "PlatformSettings":
        """Flags before environment before ``.env``. Raises UsageError with one line that names the setting."""
        try:
            return cls(**flags)
        except UnicodeDecodeError:
            raise UsageError(".env, in the folder that this is called in, is not text in UTF-8") from None
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            message = f"{first['msg'][0].lower()}{first['msg'][1:]}".removeprefix("value error, ")
            given = first["input"]
            value = shown(given) if isinstance(given, str) else given
            raise UsageError(f"{variable(name)} = {value!r}: {message}") from None

    def environment(self) -> dict[str, str]:
        """What says the same elsewhere; nothing that is of this machine."""
        here = {"work", "context", "pod_patch"}
        return {
            f"EVEREST_{name.upper()}": str(value)
            for name, value in self
            if name not in here and value is not None and value != type(self).model_fields[name].default
        }

    def for_pods(self) -> "PlatformSettings":
        """As they are in the cluster."""
        names = ("s3_endpoint", "mlflow_uri", "studies")
        there = {name: getattr(self, f"pod_{name}") or getattr(self, name) for name in names}
        return self.model_copy(update={**there, **{f"pod_{name}": None for name in names}})

    @property
    def cache_folder(self) -> Path:
        return self.cache or self.work / "cache"

    @property
    def study_uri(self) -> str:
        return self.studies or sqlite_uri(self.work / "optuna.db")

    @property
    def pods(self) -> range:
        """Numbers of them that a job may have."""
        least, most = _ends(self.nodes)
        return range(least, most + 1)

    @property
    def several_pods(self) -> bool:
        return self.pods[-1] > 1

    @property
    def elastic(self) -> bool:
        return len(self.pods) > 1

    @property
    def processes_per_pod(self) -> int:
        return self.processes or max(1, self.gpus)

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or sqlite_uri(self.mlflow_file)

    @property
    def mlflow_file(self) -> Path:
        """The database where no server is named."""
        return self.work / "mlflow.db"

    @property
    def artifact_location(self) -> str | None:
        """Of a new MLflow experiment: beside a local database, straight in S3, or where the server says."""
        if self.tracking_uri.startswith("sqlite:"):
            return (self.work.resolve() / "mlflow-artifacts").as_uri()
        return f"s3://{self.s3_bucket}/{self.s3_prefix}/mlflow" if self.s3_bucket else None
