"""What is to be looked at in a browser: MLflow's runs and optuna-dashboard's studies, of this machine's stores."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from everest.errors import EverestError
from orchestration.settings import PlatformSettings
from sweeps.storage import open_storage

_HOST = "127.0.0.1"
_READY_S = 120


def main() -> None:
    """``python -m sweeps.ui PORT PORT``: until Ctrl-C."""
    mlflow_port, dashboard_port = map(int, sys.argv[1:])
    try:
        serve(mlflow_port, dashboard_port)
    except EverestError as error:
        print(f"make ui: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def serve(mlflow_port: int, dashboard_port: int) -> None:
    """Raises EverestError where a server cannot start."""
    settings = PlatformSettings.load()
    settings.work.mkdir(parents=True, exist_ok=True)
    open_storage(settings)  # makes the database where there is none
    here = ("--host", _HOST, "--port")
    commands = {
        "MLflow": [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--backend-store-uri",
                   settings.tracking_uri, *here, str(mlflow_port)],
        "optuna-dashboard": [str(Path(sys.executable).with_name("optuna-dashboard")), settings.study_uri,
                             *here, str(dashboard_port)],
    }  # fmt: skip
    ports = dict(zip(commands, (mlflow_port, dashboard_port), strict=True))
    for name, port in ports.items():
        if _answers(port):
            raise EverestError(f"port {port} is taken, {name} needs one: make ui PORT=… SWEEPS_PORT=…")
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    servers = {name: subprocess.Popen(command, env=quiet, start_new_session=True) for name, command in commands.items()}
    try:
        with suppress(KeyboardInterrupt):
            _wait_until_ready(servers, ports)
            for name, port in ports.items():
                print(f"{name}: http://{_HOST}:{port}")
            print("Ctrl-C ends both", flush=True)
            while True:
                _all_live(servers)
                time.sleep(0.5)
    finally:
        for server in servers.values():
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
        for server in servers.values():
            server.wait()


def _wait_until_ready(servers: dict[str, "subprocess.Popen[bytes]"], ports: dict[str, int]) -> None:
    deadline = time.monotonic() + _READY_S
    while not all(map(_answers, ports.values())):
        _all_live(servers)
        if time.monotonic() > deadline:
            raise EverestError(f"no answer within {_READY_S} s; see above")
        time.sleep(0.2)


def _all_live(servers: dict[str, "subprocess.Popen[bytes]"]) -> None:
    for name, server in servers.items():
        if server.poll() is not None:
            raise EverestError(f"{name} ended with {server.returncode}; see above")


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        return True
    return False


if __name__ == "__main__":
    main()
