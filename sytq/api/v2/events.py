"""GET /v2/tasks/{id}/events: the state and progress of a task as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict

import falcon
import falcon.asgi
from falcon.asgi import SSEvent

from sytq.api import problems
from sytq.api.task_watcher import Snapshot, change
from sytq.api.v2.task import One
from sytq.api.v2.waiting import draining

#: Seconds until a stream ends (clients reconnect by themselves), and between two keep-alive comments.
_STREAM_SECONDS, _KEEP_ALIVE_SECONDS = 300.0, 15.0
_RECONNECT_MS = 1000


class Events(One):
    """GET /v2/tasks/{task_id}/events

    An event has the whole state of the task, so missed events are harmless: with `Last-Event-ID` a client gets an event
    once the task differs from that one, and 204 (do not reconnect) if that was the last.
    """

    streams = True

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        row = await self._control.row(req, task_id)
        seen = req.get_header("Last-Event-ID") or ""
        if seen.endswith(":ended"):
            resp.status = falcon.HTTP_204
            return
        self._parts.task_watcher.check_capacity()
        resp.set_header("Cache-Control", "no-cache")
        resp.set_header("X-Accel-Buffering", "no")
        resp.sse = self._events(row.id, seen, draining(req))

    async def _events(self, task_id: str, seen: str, stop: asyncio.Event | None) -> AsyncIterator[SSEvent | None]:
        deadline = time.monotonic() + _STREAM_SECONDS
        async with self._parts.task_watcher.watch(task_id) as watched:
            yield SSEvent(comment="sytq", retry=_RECONNECT_MS)
            while (left := deadline - time.monotonic()) > 0 and not (stop is not None and stop.is_set()):
                snapshot = watched.snapshot
                if snapshot is not None and (event_id := _event_id(snapshot)) != seen:
                    seen = event_id
                    data = problems.encode(asdict(snapshot))
                    yield SSEvent(data=data, event="ended" if snapshot.ended else "task", event_id=event_id)
                    if snapshot.ended:
                        return
                elif not await change(watched, min(left, _KEEP_ALIVE_SECONDS), stop):
                    yield None  # a comment: the connection of a client that has gone fails


def _event_id(snapshot: Snapshot) -> str:
    return f"{snapshot.version}{':ended' if snapshot.ended else ''}"
