"""What the API is compared with: a bare Falcon handler that reads a JSON body and answers, in the same gunicorn.

gunicorn -c python:sytq.api.gunicorn_conf 'bench.bare:create_app()'
"""

from __future__ import annotations

import json
from typing import Any

import falcon
import falcon.asgi


class Bare:
    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        fields: Any = json.loads(await req.stream.read())
        resp.data = json.dumps({"task_id": "00000000-0000-7000-8000-000000000000", "message": fields["url"]}).encode()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = b'{"task_id":"00000000-0000-7000-8000-000000000000"}'


def create_app() -> falcon.asgi.App[Any, Any]:
    app = falcon.asgi.App(media_type=falcon.MEDIA_JSON)
    app.add_route("/", Bare())
    return app
