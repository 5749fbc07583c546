"""What is to be looked at in a browser: MLflow's runs, optuna-dashboard's studies; of a cluster or of this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
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
_DATABASE = "PostgreSQL"
#: MLflow's jobs judge language models: seven processes of 250 MB that nothing here needs.
_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Server(NamedTuple):
    command: list[str]
    port: int


def main() -> NoReturn:
    """``python -m sweeps.ui MLFLOW DASHBOARD S3 DATABASE NAMESPACE [RELEASE]``: ports, and where; until Ctrl-C."""
    sys.exit(exit_code("make ui", _run))


def _run() -> None:
    *ports, namespace = sys.argv[1:6]
    release = sys.argv[6] if len(sys.argv) > 6 else ""
    mlflow, dashboard, s3, database = map(int, ports)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)
    if release and _installed(f"{release}-mlflow", namespace):
        print(f"{release} in the namespace {namespace}; make ui RELEASE= shows this machine's runs", flush=True)
        serve(of_release(release, namespace, mlflow, dashboard, s3, database))
    else:
        serve(of_this_machine(PlatformSettings.load(), mlflow, dashboard))


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
        name: Server([*forward, f"service/{service}", f"{port}:{there}"], port)
        for name, (service, port, there) in services.items()
        if _installed(service, namespace)
    }


def _installed(service: str, namespace: str) -> bool:
    if not shutil.which("kubectl"):
        return False
    asked = ["kubectl", "--namespace", namespace, "--request-timeout", "5s", "get", "service", service]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def serve(servers: Mapping[str, Server]) -> None:
    """Until Ctrl-C. Raises EverestError where a server cannot start, or ends."""
    for name, server in servers.items():
        if _listens(server.port):
            raise EverestError(
                f"port {server.port} is taken, {name} needs one: make ui PORT=… SWEEPS_PORT=… S3_PORT=… DATABASE_PORT=…"
            )
    environment = {**_NO_JOBS, **os.environ, "PYTHONWARNINGS": "ignore"}
    started = {
        name: subprocess.Popen(server.command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        for name, server in servers.items()
    }
    try:
        with suppress(KeyboardInterrupt):
            _wait_until_ready(started, servers)
            for name, server in servers.items():
                print(
                    f"{name}: {_HOST}:{server.port}" if name == _DATABASE else f"{name}: http://{_HOST}:{server.port}"
                )
            print("Ctrl-C ends it", flush=True)
            while True:
                _all_live(started)
                time.sleep(0.5)
    finally:
        for process in started.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in started.values():
            process.wait()


def _wait_until_ready(started: Mapping[str, "subprocess.Popen[bytes]"], servers: Mapping[str, Server]) -> None:
    deadline = time.monotonic() + _READY_S
    while not all(_answers(name, server.port) for name, server in servers.items()):
        _all_live(started)
        if time.monotonic() > deadline:
            raise EverestError(f"no answer within {_READY_S} s; see above")
        time.sleep(0.2)


def _all_live(started: Mapping[str, "subprocess.Popen[bytes]"]) -> None:
    for name, process in started.items():
        if process.poll() is not None:
            raise EverestError(f"{name} ended with {process.returncode}; see above")


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
