"""The chart as a person installs it, with this machine's programs in its pods."""

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.platform import ROOT, Platform, host_folders, kubeconfig_of, run
from tests.helm.chart import helm
from tests.services import HANGS_S, addresses_of, free_port

NAME = "ev"


@dataclass
class Release:
    admin: Platform  # who installs it
    values: Path

    @property
    def namespace(self) -> str:
        return self.admin.namespace

    def install(self, *arguments: str) -> None:
        words = f"ARGS=--values {self.values} --timeout 5m {' '.join(arguments)}"
        done = run("make", "install", words, f"RELEASE={NAME}", f"NAMESPACE={self.namespace}", timeout=HANGS_S)
        assert done.code == 0, done.err

    def __call__(self, *arguments: str) -> str:
        done = helm(*arguments, "--namespace", self.namespace)
        assert done.code == 0, done.err
        return done.out

    def secret(self, name: str) -> dict[str, str]:
        found = json.loads(self.admin.kubectl("get", "secret", name, "-o", "json"))["data"]
        return {key: b64decode(value).decode() for key, value in found.items()}


def host_values() -> dict[str, Any]:
    cluster = Path(os.environ.get("CLUSTER_HOME", "/var/lib/testcluster"))
    if not (cluster / "bin/versitygw").exists():
        pytest.skip("not on the machine of the test cluster: its programs cannot be run in pods")
    folders = {**host_folders(), "programs": cluster / "bin"}
    (programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    image = os.environ.get("EVEREST_TEST_IMAGE", "localhost/host:1")
    return {
        "image": image,
        "extraVolumes": [{"name": name, "hostPath": {"path": str(path)}} for name, path in folders.items()],
        "extraVolumeMounts": [
            {"name": name, "mountPath": str(path), "readOnly": True} for name, path in folders.items()
        ],
        "extraEnv": [{"name": "PATH", "value": f"{sys.prefix}/bin:/usr/bin:/bin"}],
        "postgresql": {"image": image, "programs": str(programs), "size": "1Gi"},
        "s3": {"server": {"enabled": True, "image": image, "command": [str(cluster / "bin/versitygw")], "size": "1Gi"}},
        "mlflow": {"auth": {"enabled": True}, "workers": 1},
    }


def host_pod(release: Release, name: str, labels: dict[str, str], command: list[str]) -> Path:
    """The manifest of a pod that runs a command with this machine's programs."""
    values = host_values()
    container = {
        "name": "main", "image": values["image"], "command": command, "env": values["extraEnv"],
        "volumeMounts": values["extraVolumeMounts"],
    }  # fmt: skip
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container], "volumes": values["extraVolumes"], "restartPolicy": "Never"},
    }
    file = release.values.with_name(f"{name}.json")
    file.write_text(json.dumps(pod))
    return file


def volume(folder: Path, namespace: str, claim: str) -> dict[str, Any]:
    path = folder / claim
    path.mkdir()
    os.chown(path, 1000, 1000)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": str(path)},
        },
    }


def submitter(release: Release, file: Path) -> Platform:
    """Who may submit and no more, with the notes' lines for .env, and what their loop reads from the Secrets."""
    notes = release("get", "notes", NAME)
    named = dict(re.findall(r"^  (EVEREST_\w+)=(\S+)$", notes, re.M))
    (loop,) = re.findall(r"^  for secret in .*^  done$", notes, re.M | re.S)
    clean = {"HOME": str(file.parent), **{name: os.environ[name] for name in ("PATH", "KUBECONFIG")}}
    done = subprocess.run(["sh", "-c", f"{loop}\nenv"], env=clean, capture_output=True, text=True, check=True)
    secrets = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"} <= secrets.keys()
    token = release.admin.kubectl("create", "token", f"{NAME}-submitter", "--duration=1h").strip()
    own = {"KUBECONFIG": kubeconfig_of(release.admin, token, file)}
    return replace(release.admin, environment={**release.admin.environment, **named, **secrets, **own})


@contextmanager
def ui(user: Platform) -> Iterator[dict[str, str]]:
    """`make ui`, and the addresses that it says, as settings."""
    ports = {name: free_port() for name in ("PORT", "SWEEPS_PORT", "S3_PORT", "DATABASE_PORT")}
    words = [f"{name}={port}" for name, port in ports.items()]
    command = ["make", "ui", *words, f"RELEASE={NAME}", f"NAMESPACE={user.namespace}"]
    process = subprocess.Popen(
        command, env=user.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        said = addresses_of(process)
        assert list(said) == ["MLflow", "optuna-dashboard", "S3", "PostgreSQL"]
        yield {
            "EVEREST_MLFLOW_URI": said["MLflow"],
            "EVEREST_S3_ENDPOINT": said["S3"],
            "MLFLOW_S3_ENDPOINT_URL": said["S3"],
            "EVEREST_STUDIES": f"postgresql://everest@{said['PostgreSQL']}/studies",
        }
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=HANGS_S)
