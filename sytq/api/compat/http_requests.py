"""Contract E: an HTTP request that is repeated until it succeeds, as a task of the `webhook` plugin."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.compat.body import read_object
from sytq.api.parts import Parts

_FIELDS = ("url", "method", "headers", "body")
_NEWER = {"retry": dict, "ordering_key": str}
_NAMES = frozenset((*_FIELDS, *_NEWER))


class WebhookTasks:
    """POST /api/v1/tasks"""

    scopes: ClassVar = {"POST": "submit"}

    def __init__(self, parts: Parts) -> None:
        self._submission = parts.submission

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        fields = read_object(req, _NAMES)
        # The old system ignored unknown fields, and treated null as absent.
        payload = {name: fields[name] for name in _FIELDS if fields.get(name) is not None}
        if isinstance(headers := payload.get("headers"), dict):  # Go reads a null among texts as ""
            payload["headers"] = {name: "" if value is None else value for name, value in headers.items()}
        # Newer than the contract; other kinds of value are old callers' own, and ignored.
        for name, kind in _NEWER.items():
            if isinstance(fields.get(name), kind) and fields[name]:
                payload[name] = fields[name]
        task_id = await self._submission.enqueue(req, "webhook", payload)
        resp.data = problems.encode({"task_id": task_id, "message": "Task created successfully"})
