"""What the API is compared with, in the same gunicorn: a handler that reads a JSON body and answers, and one that
commits a row and adds an entry to a stream for each request, without batches.

gunicorn -c python:sytq.api.gunicorn_conf 'bench.bare:create_app()'
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import falcon
import falcon.asgi
import redis

from sytq import config
from sytq.ids import new_id
from sytq.ledger.database import is_mysql
from sytq.runtime import build


class Bare:
    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        fields: Any = json.loads(await req.stream.read())
        resp.data = json.dumps({"task_id": "00000000-0000-7000-8000-000000000000", "message": fields["url"]}).encode()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = b'{"task_id":"00000000-0000-7000-8000-000000000000"}'


class RowEach:
    """The same with the promise of a submission: what was answered is in a committed row, and on its way."""

    def __init__(self) -> None:
        settings = config.load()
        self._database, self._redis = build(settings).database, redis.Redis.from_url(settings.redis.url)
        sign = "%s" if is_mysql(self._database) else "?"
        self._insert = f"INSERT INTO bare (id, body) VALUES ({sign}, {sign})"
        with self._database.connection_context():
            self._database.execute_sql("CREATE TABLE IF NOT EXISTS bare (id VARCHAR(36) PRIMARY KEY, body TEXT)")
        self._threads = ThreadPoolExecutor(settings.database.pool)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        body = await req.stream.read()
        fields: Any = json.loads(body)
        task_id = await asyncio.get_running_loop().run_in_executor(self._threads, self._keep, body)
        resp.data = json.dumps({"task_id": task_id, "message": fields["url"]}).encode()

    def _keep(self, body: bytes) -> str:
        task_id = new_id()
        self._database.connect(reuse_if_open=True)  # one for each thread, and kept
        self._database.connection().cursor().execute(self._insert, (task_id, body.decode()))
        self._redis.xadd("bare", {"id": task_id, "body": body})
        return task_id


def create_app() -> falcon.asgi.App[Any, Any]:
    app = falcon.asgi.App(media_type=falcon.MEDIA_JSON)
    app.add_route("/", Bare())
    app.add_route("/row", RowEach())
    return app
