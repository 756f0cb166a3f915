"""Serves the OpenAPI 3.1 document of this installation and its page: GET /openapi.json, GET /docs.

The document is built once, at the start."""

from __future__ import annotations

from pathlib import Path

import falcon.asgi

from sytq.api import problems
from sytq.api.openapi.document import document
from sytq.tasktypes.registry import Registry

__all__ = ["DocsPage", "OpenApi", "document"]


class OpenApi:
    """GET /openapi.json"""

    def __init__(self, registry: Registry) -> None:
        self._body = problems.encode(document(registry))

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = self._body


class DocsPage:
    """GET /docs: a page that renders /openapi.json and fetches nothing else."""

    def __init__(self) -> None:
        self._body = (Path(__file__).parent / "docs.html").read_bytes()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'")
        resp.data = self._body
