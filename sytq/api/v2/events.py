"""GET /v2/tasks/{id}/events: the state and progress of a task as server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

import falcon.asgi
from falcon.asgi import SSEvent

from sytq.api import problems
from sytq.api.credentials import CACHE_SECONDS
from sytq.api.parts import Parts
from sytq.api.task_watcher import change
from sytq.api.v2.task import One
from sytq.api.v2.waiting import draining

#: Seconds until a stream ends (clients reconnect by themselves), and between two keep-alive comments.
_STREAM_SECONDS, _KEEP_ALIVE_SECONDS = 300.0, 15.0
_RECONNECT_MS = 1000


class Events(One):
    """GET /v2/tasks/{task_id}/events

    An event has the whole state of the task, so missed events are harmless: with `Last-Event-ID` a client gets an event
    once the task differs from that one, and 204 (do not reconnect) if that was the last. `show` makes of an event what
    the client may read. The stream ends soon after the key or session that it was opened with.
    """

    streams = True

    def __init__(self, parts: Parts, show: Callable[[dict[str, Any]], Any] = dict) -> None:
        super().__init__(parts)
        self._show = show

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row = await self._control.row(req, task_id)
        seen = req.get_header("Last-Event-ID") or ""
        if seen.endswith(":ended"):
            resp.status = falcon.HTTP_204
            return
        self._parts.task_watcher.check_capacity()
        resp.set_header("Cache-Control", "no-cache")
        resp.set_header("X-Accel-Buffering", "no")
        resp.sse = self._events(req, row.id, seen)

    async def _events(self, req: falcon.asgi.Request, task_id: str, seen: str) -> AsyncIterator[SSEvent | None]:
        stop = draining(req)
        now = time.monotonic()
        deadline, verify_at, comment_at = now + _STREAM_SECONDS, now + CACHE_SECONDS, now + _KEEP_ALIVE_SECONDS
        async with self._parts.task_watcher.watch(task_id) as watched:
            yield SSEvent(comment="sytq", retry=_RECONNECT_MS)
            while (now := time.monotonic()) < deadline and not stop.is_set():
                if now >= verify_at:
                    verify_at = now + CACHE_SECONDS
                    if not await req.context.is_still_valid(req):
                        return
                snapshot = watched.snapshot
                if snapshot is not None and (event_id := snapshot.version) != seen:
                    seen = event_id
                    data = problems.encode(self._show(asdict(snapshot)))
                    yield SSEvent(data=data, event="ended" if snapshot.ended else "task", event_id=event_id)
                    if snapshot.ended:
                        return
                    continue
                if now >= comment_at:
                    comment_at = now + _KEEP_ALIVE_SECONDS
                    yield None  # a comment: the connection of a client that has gone fails
                await change(watched, min(deadline, verify_at, comment_at) - time.monotonic(), stop)
