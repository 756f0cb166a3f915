"""GET /v2/dead/unreadable, types, queues, workers and schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.parameters import number, parameter
from sytq.api.parts import Resource
from sytq.api.threads import Threads
from sytq.errors import InvalidInput
from sytq.service import status

_MAX_LIMIT = 200


class Page:
    """A short list without pages, GET only."""

    parameters: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, name: str, threads: Threads, read: Callable[[], list[Any]], scope: str = "read") -> None:
        self._name = name
        self._threads = threads
        self._read = read
        self.scopes = {"GET": scope}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = problems.encode({self._name: await self._threads.run(self._read)})


class Unreadable(Resource):
    """GET /v2/dead/unreadable: undecodable messages and unrecordable events, of any owner."""

    scopes: ClassVar = {"GET": "admin"}
    parameters: ClassVar = {"GET": ("limit", "cursor")}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        limit = number(req, "limit", 20, min_value=1, max_value=_MAX_LIMIT)
        inspection = self._parts.runtime.inspection
        try:
            page = await self._parts.redis.run(inspection.unreadable, limit=limit, after=parameter(req, "cursor"))
        except InvalidInput as error:
            raise InvalidInput("cursor", error.message) from None
        resp.data = problems.encode({"messages": status.dead_letters(page.items), "next": page.next})
