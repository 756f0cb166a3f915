"""The receiver of the sample's callback: a server on loopback that verifies signatures as a caller should."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import standardwebhooks
from aiohttp import web

from sytq import clock


@dataclass(frozen=True)
class Callback:
    """A callback that arrived at unix time `at`; `refused` says why its signature is invalid, None when it is valid."""

    at: float
    said: dict[str, Any]
    refused: str | None


class Receiver:
    """The receiver's application; `arrived` holds the first callback of each task."""

    def __init__(self, secret: str) -> None:
        self.arrived: dict[str, Callback] = {}
        self.app = web.Application()
        self.app.router.add_post("/callback", self._take)
        self._secret = secret

    async def _take(self, request: web.Request) -> web.Response:
        at, body = clock.now(), await request.read()
        try:
            standardwebhooks.Webhook(self._secret).verify(body, dict(request.headers))
            refused = None
        except (standardwebhooks.webhooks.WebhookVerificationError, ValueError) as error:
            refused = str(error)
        try:
            said = json.loads(body)
            self.arrived.setdefault(str(said["task_id"]), Callback(at, said, refused))
        except (ValueError, TypeError, KeyError):
            return web.Response(status=400)
        return web.Response(status=401 if refused else 204)
