"""A platform to test on: a cluster's namespace, an S3 server, an MLflow server with PostgreSQL behind it."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.services import HANGS_S, MlflowServer

ROOT = Path(__file__).resolve().parents[2]
#: This machine as pods see it, and the S3 server of the test cluster as they do.
HOST = os.environ.get("EVEREST_TEST_HOST", "10.244.255.1")
S3_FOR_PODS = os.environ.get("EVEREST_TEST_S3_FOR_PODS", f"http://{HOST}:7070")


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(*command: object, timeout: float = HANGS_S) -> Done:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=timeout, cwd=ROOT
    )
    return Done(done.returncode, done.stdout, done.stderr)


def host_folders() -> dict[str, Path]:
    """Of this machine, that pods run their programs from."""
    python = Path(sys.base_prefix)
    folders = {"usr": Path("/usr"), "environment": Path(sys.prefix), "checkout": ROOT}
    if not python.is_relative_to("/usr"):
        folders["python"] = python.parents[1]  # of pyenv: all its versions
    return folders


def host_pod_patch(file: Path) -> Path:
    """Lets pods of an image without files run this machine's Python, environment and checkout."""
    folders = host_folders()
    patch = {
        "spec": {
            "containers": [
                {
                    "name": "pytorch",
                    "env": [
                        {"name": "PATH", "value": f"{sys.prefix}/bin:/usr/bin:/bin"},
                        {"name": "EVEREST_DEVICE", "value": "cpu"},  # the cluster's GPUs are names
                    ],
                    "volumeMounts": [
                        {"name": name, "mountPath": str(path), "readOnly": True} for name, path in folders.items()
                    ],
                }
            ],
            "volumes": [{"name": name, "hostPath": {"path": str(path)}} for name, path in folders.items()],
        }
    }
    file.write_text(yaml.safe_dump(patch))
    return file


@dataclass
class Platform:
    """Runs the product's commands as a user does, with the settings in the environment."""

    environment: dict[str, str]
    namespace: str
    mlflow: MlflowServer
    prefix: str

    def jobs(self, *arguments: object, timeout: float = HANGS_S, **settings: str) -> Done:
        return self._run([sys.executable, "-m", "orchestration", *map(str, arguments)], timeout, settings)

    def start(self, *arguments: object, **settings: str) -> "subprocess.Popen[str]":
        """The same, going on."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestration", *map(str, arguments)], text=True, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**self.environment, **settings},
        )  # fmt: skip

    def make(self, *arguments: object, timeout: float = HANGS_S, **settings: str) -> Done:
        return self._run(["make", *map(str, arguments)], timeout, settings)

    def everest(self, *arguments: object, **settings: str) -> Done:
        return self._run([sys.executable, "-m", "everest", *map(str, arguments)], 120, settings)

    def kubectl(self, *arguments: object) -> str:
        done = self._run(["kubectl", "-n", self.namespace, *map(str, arguments)], 120, {})
        assert done.code == 0, done.err
        return done.out

    @property
    def kind(self) -> str:
        """Of its jobs, as kubectl has it."""
        return f"{self.environment.get('EVEREST_OPERATOR', 'pytorchjob')}s"

    def place(self, job: str, index: int = 0) -> str:
        """What the job's pod of that number is called, or begins with."""
        return f"{job}-worker-{index}" if self.kind == "pytorchjobs" else f"{job}-node-0-{index}"

    def pod(self, job: str, index: int = 0) -> str:
        """The one that is there now, or nothing."""
        by_age = ("get", "pods", "--sort-by=.metadata.creationTimestamp", "-o", "name")
        found = [name.partition("/")[2] for name in self.kubectl(*by_age).split()]
        return next(
            (name for name in reversed(found) if re.fullmatch(rf"{self.place(job, index)}(-\w{{5}})?", name)), ""
        )

    def names(self, kind: str) -> list[str]:
        found = self.kubectl("get", kind, "-o", "name").split()
        return [name.partition("/")[2] for name in found if "kube-root-ca" not in name]

    def _run(self, command: list[str], timeout: float, settings: dict[str, str]) -> Done:
        done = subprocess.run(
            command, env={**self.environment, **settings}, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)


def require_operator(name: str) -> None:
    """Skips where the cluster does not make such jobs (``pytorchjob``, ``trainjob``)."""
    found = run("kubectl", "api-resources", "-o", "name").out
    if f"{name}s." not in found:
        pytest.skip(f"this cluster has no operator of {name}s")


def kubeconfig_of(platform: Platform, token: str, file: Path) -> str:
    """The platform's cluster for somebody else; the file's name."""
    config = yaml.safe_load(Path(platform.environment["KUBECONFIG"]).read_text())
    for entry in config["users"]:
        entry["user"] = {"token": token}
    file.write_text(yaml.safe_dump(config))
    return str(file)
