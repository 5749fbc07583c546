"""What `make ui` does with servers that end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.error import URLError
from urllib.request import urlopen

from tests.services import HANGS_S, addresses_of, free_port, until

_SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end":
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
_SERVE = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as make ui does: it may be ignored where this was started
from everest.program import exit_code
from sweeps.ui import Server, serve
commands = json.loads(sys.argv[1])
servers = {name: Server(command, port, again) for name, (command, port, again) in commands.items()}
sys.exit(exit_code("make ui", lambda: serve(servers)))
"""


@contextmanager
def served(**again: bool) -> "Iterator[tuple[subprocess.Popen[str], dict[str, str]]]":
    ports = {name: free_port() for name in again}
    servers = {name: ([sys.executable, "-c", _SERVER, str(ports[name])], ports[name], again[name]) for name in again}
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, json.dumps(servers)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            yield process, addresses_of(process)
        finally:
            process.send_signal(signal.SIGINT)


def answer(address: str) -> str:
    with suppress(URLError, OSError), urlopen(address, timeout=10) as said:
        return str(said.read().decode())
    return ""


def test_a_connection_to_a_cluster_that_ends_is_begun_again_and_the_others_stay() -> None:
    with served(MLflow=True, S3=True) as (process, at):
        first, other = answer(at["MLflow"]), answer(at["S3"])
        answer(f"{at['MLflow']}/end")
        second = until(lambda: answer(at["MLflow"]), "the same address")
        assert second != first
        assert answer(at["S3"]) == other
        process.send_signal(signal.SIGINT)
        assert "MLflow is begun again\n" in process.communicate(timeout=HANGS_S)[1]
    assert process.returncode == 0


def test_a_server_of_this_machine_that_ends_ends_all_with_a_line() -> None:
    with served(MLflow=False, S3=True) as (process, at):
        other = answer(at["S3"])
        answer(f"{at['MLflow']}/end")
        assert process.communicate(timeout=HANGS_S)[1].endswith("make ui: MLflow ended with 3; see above\n")
    assert process.returncode == 1
    with suppress(ProcessLookupError):
        os.kill(int(other), 0)
        raise AssertionError("the other one lives")
