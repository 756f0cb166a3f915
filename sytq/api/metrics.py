"""/metrics in Prometheus' text format, from any process of the API."""

from __future__ import annotations

import falcon
import falcon.asgi
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sytq.api.threads import Threads
from sytq.service.prometheus import Scrape


class Metrics:
    """GET /metrics"""

    def __init__(self, scrape: Scrape, threads: Threads) -> None:
        self._scrape = scrape
        self._threads = threads

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = await self._threads.run(self._scrape.text)
        resp.content_type = CONTENT_TYPE_LATEST
