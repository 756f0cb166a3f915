"""A proxy in front of the API, as nginx or Caddy is: terminates TLS in name, serves sytq below a prefix."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: The address that it connects from, so that a test's own connections are another peer.
SOURCE = "127.0.0.2"


@contextlib.contextmanager
def front_proxy(upstream: int, prefix: str, *, strips: bool, **adds: str) -> Iterator[int]:
    """Yield the port. It answers 404 outside `prefix`; `adds` are fields that it sets, such as X_Forwarded_Proto."""

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if not f"{self.path}/".startswith((f"{prefix}/", f"{prefix}?")):
                self.send_error(404)
                return
            path = self.path.removeprefix(prefix) if strips else self.path
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = {name: value for name, value in self.headers.items() if name.title() not in _set}
            sent |= {
                "X-Forwarded-For": f"{self.headers.get('X-Forwarded-For', '')}, 203.0.113.7",
                "Connection": "close",
            }
            sent |= {name.replace("_", "-"): value for name, value in adds.items()}
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60, source_address=(SOURCE, 0))
            with contextlib.closing(connection):
                connection.request(self.command, path or "/", body, sent)
                answer = connection.getresponse()
                data = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = forward

        def log_message(self, *_: object) -> None:
            """Nothing."""

    _set = {name.replace("_", "-") for name in adds} | {"X-Forwarded-For", "Connection"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="front-proxy", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
