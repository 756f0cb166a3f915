"""GET /v2/tasks/{id}/events: the state and progress of a task as server-sent events.

Owns the form of the events and how long a stream lasts. How changes are noticed is sytq.api.task_watcher.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import falcon
import falcon.asgi
from falcon.asgi import SSEvent

from sytq.api import problems
from sytq.api.parameters import only
from sytq.api.task_watcher import Snapshot, changed
from sytq.api.v2.task import One
from sytq.api.v2.waiting import draining

#: Seconds after which a stream of events ends (its client comes again by itself), and between two signs of life.
_STREAM_SECONDS, _SIGN_SECONDS = 300.0, 15.0
_RECONNECT_MS = 1000


class Events(One):
    """GET /v2/tasks/{task_id}/events

    An event tells the task as it is, so a client that missed some has lost nothing: with `Last-Event-ID` it gets the
    next one when the task differs from what it saw, and 204 (come no more) when it saw the end.
    """

    streams = True

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        only(req, ())
        row = await self._row(req, task_id)
        seen = req.get_header("Last-Event-ID") or ""
        if seen.endswith(":ended"):
            resp.status = falcon.HTTP_204
            return
        self._parts.task_watcher.check_room()
        resp.set_header("Cache-Control", "no-cache")
        resp.set_header("X-Accel-Buffering", "no")
        resp.sse = self._events(row.id, seen, draining(req))

    async def _events(self, task_id: str, seen: str, stop: asyncio.Event | None) -> AsyncIterator[SSEvent | None]:
        deadline = time.monotonic() + _STREAM_SECONDS
        async with self._parts.task_watcher.of(task_id) as watched:
            yield SSEvent(comment="sytq", retry=_RECONNECT_MS)
            while (left := deadline - time.monotonic()) > 0 and not (stop is not None and stop.is_set()):
                sight = watched.sight
                if sight is not None and (tag := _tag(sight)) != seen:
                    seen = tag
                    told = problems.encode(_told(sight))
                    yield SSEvent(data=told, event="ended" if sight.ended else "task", event_id=tag)
                    if sight.ended:
                        return
                elif not await changed(watched, min(left, _SIGN_SECONDS), stop):
                    yield None  # a comment, so that a client that has gone is noticed


def _told(sight: Snapshot) -> dict[str, object]:
    return {"state": sight.state, "attempts": sight.attempts, "progress": sight.progress, "ended": sight.ended}


def _tag(sight: Snapshot) -> str:
    return f"{sight.version}{':ended' if sight.ended else ''}"
