"""What is to be looked at in a browser: MLflow's runs, optuna-dashboard's studies; of a cluster or of this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.error import HTTPError
from urllib.request import urlopen

from everest.errors import EverestError
from everest.program import exit_code
from orchestration.settings import PlatformSettings

_HOST = "127.0.0.1"
_READY_S = 120
_AGAIN_S, _LASTS_S = 2.0, 10.0  # between two beginnings; and what lives so long has not failed
_DATABASE = "PostgreSQL"
#: MLflow's jobs judge language models: seven processes of 250 MB that nothing here needs.
_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Server(NamedTuple):
    command: list[str]
    port: int
    again: bool = False  # begun again where it ends: kubectl's connection to a pod does not last


def main() -> NoReturn:
    """``python -m sweeps.ui MLFLOW DASHBOARD S3 DATABASE NAMESPACE RELEASE NAMED``: ports, and where; until Ctrl-C.

    ``NAMED``: empty where nobody said which release, so that this machine's runs are shown where it is not installed.
    """
    sys.exit(exit_code("make ui", _run))


def _run() -> None:
    *ports, namespace, release, named = sys.argv[1:]
    mlflow, dashboard, s3, database = map(int, ports)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)
    lacks = _lacks(f"{release}-mlflow", namespace) if release else ""
    if release and not lacks:
        print(f"{release} in the namespace {namespace}; make ui RELEASE= shows this machine's runs", flush=True)
        serve(of_release(release, namespace, mlflow, dashboard, s3, database))
    elif release and named:
        raise EverestError(f"no release {release} in the namespace {namespace}: {lacks}")
    else:
        settings = PlatformSettings.load()
        print(f"this machine's runs, in {settings.work}{f'; of a cluster, none: {lacks}' if lacks else ''}", flush=True)
        serve(of_this_machine(settings, mlflow, dashboard))


def of_this_machine(settings: PlatformSettings, mlflow_port: int, dashboard_port: int) -> dict[str, Server]:
    from sweeps.storage import open_storage

    settings.work.mkdir(parents=True, exist_ok=True)
    open_storage(settings)  # makes the database where there is none
    mlflow = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri", settings.tracking_uri]
    dashboard = [str(Path(sys.executable).with_name("optuna-dashboard")), settings.study_uri]
    return {
        name: Server([*command, "--host", _HOST, "--port", str(port)], port)
        for name, command, port in (("MLflow", mlflow, mlflow_port), ("optuna-dashboard", dashboard, dashboard_port))
    }


def of_release(release: str, namespace: str, mlflow: int, dashboard: int, s3: int, database: int) -> dict[str, Server]:
    """Ports that kubectl forwards, to what of it is installed."""
    services = {
        "MLflow": (f"{release}-mlflow", mlflow, 5000),
        "optuna-dashboard": (f"{release}-dashboard", dashboard, 8080),
        "S3": (f"{release}-s3", s3, 7070),
        _DATABASE: (f"{release}-postgresql", database, 5432),
    }
    forward = ["kubectl", "--namespace", namespace, "port-forward", "--address", _HOST]
    return {
        name: Server([*forward, f"service/{service}", f"{port}:{there}"], port, again=True)
        for name, (service, port, there) in services.items()
        if not _lacks(service, namespace)
    }


def _lacks(service: str, namespace: str) -> str:
    """Why there is none; empty where there is."""
    if not shutil.which("kubectl"):
        return "kubectl is not on this machine"
    asked = ["kubectl", "--namespace", namespace, "--request-timeout", "5s", "get", "service", service]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    return done.stderr.strip().rpartition("\n")[2] or f"kubectl ended with {done.returncode}"


class _Running:
    """One of them, which is begun again where it may be."""

    def __init__(self, name: str, server: Server, environment: Mapping[str, str]) -> None:
        self._name, self._server, self._environment = name, server, environment
        self._failing_since: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._begun = time.monotonic()
        self.process = subprocess.Popen(
            self._server.command, env=self._environment, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def look(self) -> None:
        """Raises EverestError where it has ended for good."""
        code, now = self.process.poll(), time.monotonic()
        if code is None:
            if now - self._begun > _LASTS_S:
                self._failing_since = None
            return
        self._failing_since = self._failing_since or now
        if not self._server.again or now - self._failing_since > _READY_S:
            raise EverestError(f"{self._name} ended with {code}; see above")
        if now - self._begun > _AGAIN_S:
            print(f"{self._name} is begun again", file=sys.stderr, flush=True)
            self._begin()


def serve(servers: Mapping[str, Server]) -> None:
    """Until Ctrl-C. Raises EverestError where a server cannot start, or ends."""
    for name, server in servers.items():
        if _listens(server.port):
            raise EverestError(
                f"port {server.port} is taken, {name} needs one: make ui PORT=… SWEEPS_PORT=… S3_PORT=… DATABASE_PORT=…"
            )
    environment = {**_NO_JOBS, **os.environ, "PYTHONWARNINGS": "ignore"}
    started = [_Running(name, server, environment) for name, server in servers.items()]
    try:
        with suppress(KeyboardInterrupt):
            _wait_until_ready(started, servers)
            for name, server in servers.items():
                print(
                    f"{name}: {_HOST}:{server.port}" if name == _DATABASE else f"{name}: http://{_HOST}:{server.port}"
                )
            print("Ctrl-C ends it", flush=True)
            while True:
                for each in started:
                    each.look()
                time.sleep(0.5)
    finally:
        for each in started:
            with suppress(ProcessLookupError):
                os.killpg(each.process.pid, signal.SIGTERM)
        for each in started:
            each.process.wait()


def _wait_until_ready(started: Sequence[_Running], servers: Mapping[str, Server]) -> None:
    deadline = time.monotonic() + _READY_S
    while not all(_answers(name, server.port) for name, server in servers.items()):
        for each in started:
            each.look()
        if time.monotonic() > deadline:
            raise EverestError(f"no answer within {_READY_S} s; see above")
        time.sleep(0.2)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        return True
    return False


def _answers(name: str, port: int) -> bool:
    if name == _DATABASE:
        return _listens(port)
    try:
        with urlopen(f"http://{_HOST}:{port}", timeout=5) as answer:
            answer.read()
            return True
    except HTTPError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
