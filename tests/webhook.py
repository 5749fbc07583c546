"""A webhook on this machine: keeps what it is told, or does not want it, or does not answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.services import until

SECRET = "T0PS3CRET/B0AT"


class WebhookServer:
    """``answers``: status codes, one a request; the last again and again. 0: none, until the server ends."""

    def __init__(self, *answers: int, host: str = "127.0.0.1") -> None:
        self.told: list[dict[str, Any]] = []  # taken
        self.asked = 0
        self._answers, self._ending = list(answers or [200]), threading.Event()
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ours._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.address = f"http://{host}:{self._server.server_port}/services/{SECRET}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def hears(self, event: str) -> dict[str, Any]:
        """The first news of that kind, which may be on its way."""
        found: dict[str, Any] = until(lambda: next((each for each in self.told if each["event"] == event), None), event)
        return found

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        status = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not status:
            self._ending.wait()
            return
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if status < 300:
            self.told.append(json.loads(body))
        request.send_response(status)
        request.send_header("Content-Length", "0")
        if 300 <= status < 400:
            request.send_header("Location", "/login")
        request.end_headers()
