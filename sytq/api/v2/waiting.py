"""Waiting for a task: `Prefer: wait=N` and ETags."""

from __future__ import annotations

import asyncio
import hashlib
import re

import falcon.asgi

from sytq.api.parts import Parts
from sytq.errors import Overloaded

#: Maximum delay of a response in seconds.
MAX_WAIT = 60
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)


async def wait_preferred(parts: Parts, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> bool:
    """Wait for the task as the request prefers; return whether it has ended.

    When too many clients wait already, the response is immediate and without `Preference-Applied`.
    """
    match = _WAIT.search(req.get_header("Prefer") or "")
    if match is None:
        return False
    seconds = min(int(match[1]), MAX_WAIT)
    try:
        ended = await parts.task_watcher.ended(task_id, seconds, draining(req))
    except Overloaded:
        return False
    resp.set_header("Preference-Applied", f"wait={seconds}")
    return ended


def add_etag(req: falcon.asgi.Request, resp: falcon.asgi.Response, cache: str = "no-cache") -> None:
    """Add the ETag of a complete response; make it a 304 if the client has it already."""
    assert resp.data is not None
    resp.etag = tag = hashlib.sha256(resp.data).hexdigest()[:32]
    resp.set_header("Cache-Control", cache)
    if any(known in ("*", tag) for known in req.if_none_match or ()):
        resp.status, resp.data = falcon.HTTP_304, None


def draining(req: falcon.asgi.Request) -> asyncio.Event:
    """Return the event that sytq.api.worker sets when this process shuts down; under another server nothing does."""
    event: asyncio.Event | None = req.scope.get("state", {}).get("draining")
    return event or asyncio.Event()
