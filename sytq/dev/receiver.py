"""The receiver of the sample's callback: a server on loopback that verifies signatures as a caller should."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import standardwebhooks
from aiohttp import web


@dataclass(frozen=True)
class Callback:
    """A callback that arrived at unix time `at`; `refused` says why its signature is invalid, None when it is valid."""

    at: float
    said: dict[str, Any]
    refused: str | None


@dataclass
class Receiver:
    """A running receiver; `arrived` holds the first callback of each task."""

    secret: str
    url: str = ""
    arrived: dict[str, Callback] = field(default_factory=dict)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/callback", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/callback"

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        at, body = time.time(), await request.read()
        try:
            standardwebhooks.Webhook(self.secret).verify(body, dict(request.headers))
            refused = None
        except (standardwebhooks.webhooks.WebhookVerificationError, ValueError) as error:
            refused = str(error)
        try:
            said = json.loads(body)
            self.arrived.setdefault(str(said["task_id"]), Callback(at, said, refused))
        except (ValueError, TypeError, KeyError):
            return web.Response(status=400)
        return web.Response(status=401 if refused else 204)
