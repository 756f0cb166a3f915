"""A request leaves nothing that only the garbage collector frees: collections under load pause every other request."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from sytq import config
from sytq.api import create_app

REQUESTS = 100


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [("GET", "/openapi.json", b"", 200), ("POST", "/v2/tasks", b'{"type": "unknown"}', 400)],
    ids=["answered", "refused"],
)
def test_requests_end_without_the_garbage_collector(
    tmp_path: Path, method: str, path: str, body: bytes, status: int
) -> None:
    environ = {"SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'sytq.db'}", "SYTQ_REDIS__URL": "redis://127.0.0.1:1"}
    app: Any = create_app(config.load(environ=environ))
    statuses = []

    async def request() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(event: dict[str, Any]) -> None:
            statuses.append(event.get("status", status))

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"}
        scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""}
        scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
        await app(scope, receive, send)

    async def scenario() -> int:
        await request()
        gc.collect()
        gc.disable()
        try:
            for _ in range(REQUESTS):
                await request()
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(scenario()) < REQUESTS
    assert set(statuses) == {status}
