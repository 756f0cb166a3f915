"""Waiting for a task: `Prefer: wait=N` and ETags.

Owns what a client may ask for. How changes are noticed is sytq.api.task_watcher.
"""

from __future__ import annotations

import asyncio
import hashlib
import re

import falcon
import falcon.asgi

from sytq.api.parts import Parts
from sytq.errors import Overloaded

#: The most seconds that an answer is held back.
WAIT_MOST = 60
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)


async def preferred(parts: Parts, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> bool:
    """Wait as the request prefers; whether the task has ended by then.

    Where too many wait already, the answer comes at once, and without `Preference-Applied`.
    """
    match = _WAIT.search(req.get_header("Prefer") or "")
    if match is None:
        return False
    seconds = min(int(match[1]), WAIT_MOST)
    try:
        ended = await parts.task_watcher.ended(task_id, seconds, draining(req))
    except Overloaded:
        return False
    resp.set_header("Preference-Applied", f"wait={seconds}")
    return ended


def tagged(req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Give an answer that is complete its ETag; 304 when the client has it already."""
    assert resp.data is not None
    resp.etag = tag = hashlib.sha256(resp.data).hexdigest()[:32]
    resp.set_header("Cache-Control", "no-cache")
    if any(known in ("*", tag) for known in req.if_none_match or ()):
        resp.status, resp.data = falcon.HTTP_304, None


def draining(req: falcon.asgi.Request) -> asyncio.Event | None:
    """The event that is set when this process is to end (sytq.api.worker)."""
    event: asyncio.Event | None = req.scope.get("state", {}).get("draining")
    return event
