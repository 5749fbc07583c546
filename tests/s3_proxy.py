"""Stands before the real S3 server: denies operations in S3's own words, and spoils what comes back."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

Spoil = Callable[[str, bytes], bytes]  # the key and what is under it -> what the client gets


class Refusal(NamedTuple):
    status: int
    code: str
    message: str = "said by the test's proxy"


DENIED = Refusal(403, "AccessDenied", "Access Denied.")
EXPIRED = Refusal(400, "ExpiredToken", "The provided token has expired.")


class S3Proxy:
    """``refused`` has operations by name (``"*"``: all) and what they are answered; while ``away`` nobody is."""

    def __init__(self, server: str, host: str = "127.0.0.1") -> None:
        self.refused: dict[str, Refusal] = {}
        self.spoil: Spoil = lambda _, content: content
        self.asked: Counter[str] = Counter()
        self.away = threading.Event()
        self.slow_s = 0.0  # before each answer
        self.under_way, self.most_at_once = 0, 0
        parts, proxy = urlsplit(server), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                operation = _operation(self.command, self.path)
                proxy.asked[operation] += 1
                if proxy.away.is_set():
                    self.close_connection = True
                    return
                proxy.under_way += 1
                proxy.most_at_once = max(proxy.most_at_once, proxy.under_way)
                time.sleep(proxy.slow_s)
                proxy.under_way -= 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if refusal := proxy.refused.get(operation) or proxy.refused.get("*"):
                    self.answer(refusal.status, {"Content-Type": "application/xml"}, _xml(refusal))
                    return
                server = HTTPConnection(str(parts.hostname), parts.port or 80, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name != "Expect"}
                server.request(self.command, self.path, body, headers)
                answer = server.getresponse()
                content = answer.read()
                server.close()
                if operation == "GetObject" and answer.status < 300:
                    content = proxy.spoil(urlsplit(self.path).path, content)
                self.answer(answer.status, dict(answer.getheaders()), content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

            def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                length = headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_response(status)
                for name, value in headers.items():
                    if name not in {"Content-Length", "Transfer-Encoding", "Connection"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _operation(method: str, path: str) -> str:
    asked = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if "uploads" in asked:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in asked:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method]
    if "list-type" in asked:
        return "ListObjectsV2"
    return f"{method.title()}Object"


def _xml(refusal: Refusal) -> bytes:
    said = f"<Code>{refusal.code}</Code><Message>{refusal.message}</Message>"
    return f'<?xml version="1.0" encoding="UTF-8"?><Error>{said}</Error>'.encode()
