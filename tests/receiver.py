"""A receiver of callbacks on loopback, in a thread of its own: counts and keeps the requests."""

from __future__ import annotations

import http.server
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Answers with the `statuses` in turn, the last one for ever."""

    def __init__(self, *statuses: int, port: int = 0) -> None:
        self.received: list[Received] = []
        remaining = list(statuses) or [200]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in handler.headers.items()}
                self.received.append(Received(handler.path, headers, body))
                handler.send_response(remaining.pop(0) if len(remaining) > 1 else remaining[0])
                handler.send_header("content-length", "0")
                handler.end_headers()

            def log_message(handler, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
