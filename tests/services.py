"""Real servers that tests talk to, and a way to cut them off."""

import http.client
import http.server
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from orchestration.settings import PlatformSettings

S3 = os.environ.get("EVEREST_TEST_S3", "http://127.0.0.1:7070")
KEYS = {"AWS_ACCESS_KEY_ID": "everest", "AWS_SECRET_ACCESS_KEY": "everest-secret"}
BUCKET = os.environ.get("EVEREST_TEST_BUCKET", "everest")

#: After that long something hangs, on a machine however busy.
HANGS_S = 900.0


def answers(address: str) -> bool:
    parts = urlsplit(address)
    with suppress(OSError), socket.create_connection((str(parts.hostname), parts.port or 80), timeout=1):
        return True
    return False


def s3_settings(patch: pytest.MonkeyPatch, endpoint: str = S3, **more: object) -> PlatformSettings:
    """A folder of its own in the test server's bucket; skips where there is no server."""
    if not answers(S3):
        pytest.skip(f"no S3 server at {S3}; EVEREST_TEST_S3 names one, EVEREST_TEST_BUCKET a bucket, AWS_* the key")
    for name, value in KEYS.items():
        patch.setenv(name, os.environ.get(name, value))
    prefix = f"tests/{uuid.uuid4().hex[:12]}"
    return PlatformSettings(s3_endpoint=endpoint, s3_bucket=BUCKET, s3_prefix=prefix, **{"patience_s": 300, **more})  # type: ignore[arg-type]


def until(condition: Callable[[], Any], what: str, seconds: float = HANGS_S, every: float = 0.2) -> Any:
    """What the condition returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(every)
    return value


def experiments(client: Any, before: str = "everest") -> list[str]:
    """Ids of those in MLflow that a setting's runs are in."""
    return [each.experiment_id for each in client.search_experiments() if each.name.startswith(f"{before}/")]


def addresses_of(ui: "subprocess.Popen[str]") -> dict[str, str]:
    """What ``make ui`` says of each server, once all answer."""
    assert ui.stdout
    found = {}
    for line in ui.stdout:
        if line == "Ctrl-C ends it\n":
            return found
        if said := re.fullmatch(r"(\S+): (\S+)\n", line):
            found[said[1]] = said[2]
    raise AssertionError(f"make ui ended with {ui.wait()} before it was ready")


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def nothing_left_running() -> Iterator[None]:
    """Ends the processes that were started meanwhile, and theirs, wherever they have moved to."""
    mark = "TEST_MARK", uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*mark)
        try:
            yield
        finally:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if process.environ().get(mark[0]) == mark[1]:
                        process.kill()


@contextmanager
def postgres(host: str = "127.0.0.1", more: Iterable[str] = ()) -> Iterator[str]:
    """The address of the database mlflow, beside which there may be more, in a server of its own.

    It does not run as root, and trusts whoever reaches it.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = found[-1] if found else Path(shutil.which("initdb") or "/nowhere").parent
    who: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="everest-postgres-") as folder, open(f"{folder}/log", "w") as log:
        if who:
            shutil.chown(folder, "postgres")
        made = [programs / "initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres"]
        subprocess.run(made, check=True, capture_output=True, cwd="/", **who)
        with open(f"{folder}/data/pg_hba.conf", "a") as allowed:
            allowed.write("host all all all trust\n")
        started = [programs / "postgres", "-D", f"{folder}/data", "-p", str(port), "-k", folder, "-h", host]
        server = subprocess.Popen(started, stdout=log, stderr=log, cwd="/", **who)
        there = ["-h", host, "-p", str(port), "-U", "postgres"]
        ready = [programs / "pg_isready", *there]
        until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, "PostgreSQL")
        for name in ("mlflow", *more):
            subprocess.run([programs / "createdb", *there, name], check=True)
        try:
            yield f"postgresql://postgres@{host}:{port}/mlflow"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(HANGS_S)


@dataclass
class MlflowServer:
    database: str
    artifacts: str
    environment: dict[str, str]
    log: Path
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", self.database,
                 "--default-artifact-root", self.artifacts, "--no-serve-artifacts", "--host", self.host,
                 "--port", str(self.port), "--allowed-hosts", "*"],
                stdout=log, stderr=log, start_new_session=True,
                env={**self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # as the chart's
            )  # fmt: skip
        until(lambda: answers(self.address), "MLflow")

    def stop(self) -> None:
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @contextmanager
    def away(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()


class Link:
    """A TCP relay to a server that can be cut, in the middle of a transfer too, and mended."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._target = (str(parts.hostname), parts.port or 80)
        self._open: set[socket.socket] = set()
        self._down = False
        link = self

        class Relay(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                link.relay(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Relay)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.carried = 0  # bytes to the server
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def relay(self, client: socket.socket) -> None:
        if self._down:
            return
        with socket.create_connection(self._target) as server:
            self._open |= {client, server}
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server, count=True)
            back.join()
            self._open -= {client, server}

    def _copy(self, source: socket.socket, target: socket.socket, count: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
                self.carried += len(data) if count else 0
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._down = True
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._down = False

    def cut_after(self, size: int, seconds: float = 30) -> None:
        """Cuts once that many bytes more went to the server."""
        target, deadline = self.carried + size, time.monotonic() + seconds
        while self.carried < target:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        self.cut()

    def close(self) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()


class Answer(NamedTuple):
    status: int
    body: str = ""
    kind: str = "text/html"
    location: str = ""


class Gate:
    """What stands before a server, and answers in its place whenever ``instead`` says so for a method and a path."""

    def __init__(self, address: str) -> None:
        self.instead: Callable[[str, str], Answer | None] = lambda _method, _path: None
        self.asked: list[str] = []  # paths that were answered in place of the server
        gate, target = self, urlsplit(address).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if self.raw_requestline and self.parse_request():
                    self._respond(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                else:
                    self.close_connection = True

            def _respond(self, body: bytes) -> None:
                if answer := gate.instead(self.command, self.path):
                    gate.asked.append(self.path)
                    headers = {"Content-Type": answer.kind} | ({"Location": answer.location} if answer.location else {})
                    status, text = answer.status, answer.body.encode()
                else:
                    server = http.client.HTTPConnection(target, timeout=60)
                    server.request(self.command, self.path, body, dict(self.headers))
                    theirs = server.getresponse()
                    status, text = theirs.status, theirs.read()
                    headers = {"Content-Type": theirs.getheader("Content-Type", "text/plain")}
                    server.close()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class S3Server:
    """The test cluster's own S3 server, which may be taken away for a while."""

    home = Path(os.environ.get("CLUSTER_HOME", "/var/lib/testcluster"))

    @contextmanager
    def away(self) -> Iterator[None]:
        pid = self.home / "run/s3.pid"
        if not pid.exists():
            pytest.skip("the S3 server is not the test cluster's: it cannot be taken away")
        number = int(pid.read_text())
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[:-1]
        environment = dict(
            entry.split(b"=", 1) for entry in Path(f"/proc/{number}/environ").read_bytes().split(b"\0") if b"=" in entry
        )
        folder = os.readlink(f"/proc/{number}/cwd")
        os.kill(number, signal.SIGKILL)
        try:
            yield
        finally:
            with (self.home / "log/s3.log").open("ab") as log:
                server = subprocess.Popen(
                    command, env=environment, cwd=folder, start_new_session=True, stdout=log, stderr=log
                )
            pid.write_text(str(server.pid))
            deadline = time.monotonic() + 20
            while not answers(S3):
                assert time.monotonic() < deadline
                time.sleep(0.1)


s3_server = S3Server()
