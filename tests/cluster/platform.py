"""A platform to test on: a cluster's namespace, an S3 server, an MLflow server with PostgreSQL behind it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
#: This machine as pods see it, and the S3 server of the test cluster as they do.
HOST = os.environ.get("EVEREST_TEST_HOST", "10.244.255.1")
S3_FOR_PODS = os.environ.get("EVEREST_TEST_S3_FOR_PODS", f"http://{HOST}:7070")


class Done(NamedTuple):
    code: int
    out: str
    err: str


def until(condition: Callable[[], Any], what: str, seconds: float = 120, every: float = 0.2) -> Any:
    """What the condition returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(every)
    return value


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The address of a database in a server of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = Path(found[-1] if found else Path(shutil.which("initdb") or "/nowhere").parent)
    who: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    data, port = folder / "data", free_port()
    folder.chmod(0o777)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    made = [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres"]
    subprocess.run(made, check=True, capture_output=True, cwd="/", **who)
    with (folder / "log").open("w") as log:
        started = [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
        server = subprocess.Popen(started, stdout=log, stderr=log, cwd="/", **who)
    ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, "PostgreSQL")
    create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "mlflow"]
    subprocess.run(create, check=True)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/mlflow"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


@dataclass
class MlflowServer:
    database: str
    artifacts: str
    environment: dict[str, str]
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", self.database,
                 "--default-artifact-root", self.artifacts, "--no-serve-artifacts", "--host", HOST,
                 "--port", str(self.port), "--allowed-hosts", "*"],
                stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip
        until(self._answers, "MLflow")

    def stop(self) -> None:
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True


def host_pod_patch(file: Path) -> Path:
    """Lets pods of an image without files run this machine's Python, environment and checkout."""
    python = Path(sys.base_prefix)
    folders = {"usr": Path("/usr"), "python": python.parents[1], "environment": Path(sys.prefix), "checkout": ROOT}
    patch = {
        "spec": {
            "containers": [
                {
                    "name": "pytorch",
                    "env": [{"name": "PATH", "value": f"{sys.prefix}/bin:/usr/bin:/bin"}],
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

    def jobs(self, *arguments: object, timeout: float = 400, **settings: str) -> Done:
        return self._run([sys.executable, "-m", "orchestration", *map(str, arguments)], timeout, settings)

    def start(self, *arguments: object, **settings: str) -> "subprocess.Popen[str]":
        """The same, going on."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestration", *map(str, arguments)], text=True, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**self.environment, **settings},
        )  # fmt: skip

    def make(self, *arguments: object, timeout: float = 400, **settings: str) -> Done:
        return self._run(["make", *map(str, arguments)], timeout, settings)

    def everest(self, *arguments: object) -> Done:
        return self._run([sys.executable, "-m", "everest", *map(str, arguments)], 120, {})

    def kubectl(self, *arguments: object) -> str:
        done = self._run(["kubectl", "-n", self.namespace, *map(str, arguments)], 120, {})
        assert done.code == 0, done.err
        return done.out

    def names(self, kind: str) -> list[str]:
        found = self.kubectl("get", kind, "-o", "name").split()
        return [name.partition("/")[2] for name in found if "kube-root-ca" not in name]

    def _run(self, command: list[str], timeout: float, settings: dict[str, str]) -> Done:
        done = subprocess.run(
            command, env={**self.environment, **settings}, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)
