"""A fake Sentry that keeps its envelopes: the endpoint on loopback, in its own thread."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import zlib
from typing import Any

from tests.servers import poll


class Ingest:
    """`items` are (type, content) as they came; `raw` is every byte, decompressed."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self.raw = b""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
                encoding = handler.headers.get("content-encoding")
                if encoding == "gzip":
                    body = gzip.decompress(body)
                elif encoding == "deflate":
                    body = zlib.decompress(body)
                self.raw += body
                self.items += list(_items(body))
                answer = b'{"id": "0"}'
                handler.send_response(200)
                handler.send_header("content-length", str(len(answer)))
                handler.end_headers()
                handler.wfile.write(answer)

            def log_message(handler, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://0123456789abcdef@127.0.0.1:{self._server.server_port}/7"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, kind: str, **tags: str) -> list[Any]:
        """The items of a type (event, transaction, check_in) that have these tags."""
        return [
            item
            for name, item in list(self.items)
            if name == kind and tags.items() <= dict(item.get("tags") or {}).items()
        ]

    def wait(self, kind: str, count: int = 1, **tags: str) -> list[Any]:
        poll(
            lambda: len(self.of(kind, **tags)) >= count,
            timeout=60,
            message=lambda: f"{count} {kind} {tags} of {[(n, i.get('tags')) for n, i in self.items]}",
        )
        return self.of(kind, **tags)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _items(envelope: bytes) -> Any:
    _, _, rest = envelope.partition(b"\n")
    while rest.strip():
        header, _, rest = rest.partition(b"\n")
        described = json.loads(header)
        length = described.get("length")
        body, rest = (rest[:length], rest[length:].lstrip(b"\n")) if length is not None else rest.split(b"\n", 1)
        yield described["type"], json.loads(body)
