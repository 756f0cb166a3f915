"""GET /v2/dead/unreadable, types, queues, workers and schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import falcon
import falcon.asgi

from sytq.api import problems
from sytq.api.parameters import number, only, parameter
from sytq.api.parts import Parts
from sytq.api.threads import Threads
from sytq.errors import InvalidInput
from sytq.service import status

_MAX_LIMIT = 200


class Page:
    """A short list without pages, GET only."""

    def __init__(self, name: str, threads: Threads, read: Callable[[], list[Any]]) -> None:
        self._name = name
        self._threads = threads
        self._read = read

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        only(req, ())
        resp.data = problems.encode({self._name: await self._threads.run(self._read)})


class Types:
    """GET /v2/types: the task types, with the JSON Schema of each payload."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._schemas = {known.name: known.payload.model_json_schema() for known in parts.runtime.registry}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        only(req, ())
        pauses = await self._parts.sql.run(self._parts.runtime.operator.pauses)
        found = status.types(self._parts.runtime.registry, pauses)
        for entry in found:
            entry["payload_schema"] = self._schemas.get(entry["type"])
        resp.data = problems.encode({"types": found})


class Unreadable:
    """GET /v2/dead/unreadable: undecodable messages and unrecordable events, of any owner."""

    scopes: ClassVar = {"GET": "admin"}

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        only(req, ("limit", "cursor"))
        limit = number(req, "limit", 20, min_value=1, max_value=_MAX_LIMIT)
        inspection = self._parts.runtime.inspection
        try:
            page = await self._parts.redis.run(inspection.unreadable, limit=limit, after=parameter(req, "cursor"))
        except InvalidInput as error:
            raise InvalidInput("cursor", error.message) from None
        resp.data = problems.encode({"messages": status.dead_letters(page.items), "next": page.next})
