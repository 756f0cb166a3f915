"""The world of the browser tests: the whole service with 100,000 tasks of varied history.

Real gunicorn and a worker on SQLite and a Redis of their own. `open` serves without a login, `closed` the same stores
with users and keys. A valuation goes on until `finish_valuation`.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sytq.dev.seed import figures
from sytq.dev.seed.rows import Rows
from sytq.dev.seed.stories import Stories
from sytq.ledger.api_keys import ApiKeys
from sytq.ledger.models import MODELS
from sytq.ledger.values import utcnow
from tests.installation import BUILT_IN, Installation
from tests.provider import ScriptedProvider, Stage
from tests.servers import RedisServer, poll

TASKS = int(os.environ.get("BROWSER_TASKS", "100000"))
ADMIN = ("ann", "password of ann")


class World:
    def __init__(self, folder: Path, redis: RedisServer, database_url: str = "", tasks: int = TASKS) -> None:
        self._go_on = threading.Event()
        self.redis = redis
        self.provider = ScriptedProvider()
        self.provider.play(self._long_answer)
        url = database_url or f"sqlite:///{folder / 'sytq.db'}"
        settings: dict[str, str | None] = {
            **BUILT_IN,
            "SYTQ_LLM__PROVIDER": "scripted",
            "SYTQ_PROVIDERS__SCRIPTED__BASE_URL": self.provider.base_url,
            "SYTQ_PROVIDERS__SCRIPTED__API_KEY": "sk-scripted",
            "SYTQ_PROVIDERS__SCRIPTED__MODEL": "deepseek-chat",
            "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]',
            "SYTQ_QUEUE__RETENTION": "720h",
        }
        self.open = Installation(_made(folder / "open"), url, redis.url, **settings)
        Stories(Rows(self.open.runtime.database), utcnow()).tell(tasks)
        figures.count(self.open.runtime.database)
        users = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_AUTH__USERS": json.dumps(dict([ADMIN]))}
        self.closed = Installation(_made(folder / "closed"), url, redis.url, **settings, **users)
        self.bind()
        self.open.start_worker(threads=8)
        self.open.start_api()
        self.operation = self._change_some()

    def close(self) -> None:
        self.closed.close()
        self.open.close()
        self._go_on.set()
        self.provider.close()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.open.port}/dashboard{path}"

    def closed_url(self, path: str = "") -> str:
        """Of the API with a login, which is started when it is first asked for."""
        if not hasattr(self.closed, "gunicorn"):
            self.closed.start_api()
        return f"http://127.0.0.1:{self.closed.port}/dashboard{path}"

    def one(self, where: str, *arguments: object) -> str:
        """The id of the newest task that matches."""
        rows = self.open.rows(f"SELECT id FROM sytq_tasks WHERE {where} ORDER BY created_at DESC LIMIT 1", *arguments)
        assert rows, where
        return str(rows[0][0])

    def keys(self) -> ApiKeys:
        return ApiKeys(self.open.runtime.database)

    def pause(self, type_name: str, why: str) -> None:
        self.open.runtime.operator.pause(type_name, "ann", why)

    def bind(self) -> None:
        """Give the models this world's database: they may have that of the installation whose stores were used last."""
        database = self.open.runtime.database
        database.bind(MODELS)
        for plugin in self.open.runtime.registry.plugins:
            database.bind(plugin.models)

    def submit(self, type_name: str, payload: dict[str, Any], **more: Any) -> str:
        reply = self.open.post("/v2/tasks", {"type": type_name, "payload": payload, **more})
        assert reply.status == 202, reply
        return str(reply.json["id"])

    def run_valuation(self) -> str:
        """Submit a valuation, which is answered word by word and not finished, and wait for the first words."""
        self._go_on.clear()
        before = len(self.provider.calls)
        reply = self.open.post("/api/v1/tasks/llm", {"prompt": "What is an oak table of 1920 worth?"})
        assert reply.status == 200, reply
        poll(lambda: len(self.provider.calls) > before, message="the provider is asked")
        return str(reply.json["task_id"])

    def finish_valuation(self) -> None:
        self._go_on.set()

    def wait_state(self, task_id: str, *states: str) -> None:
        self.open.wait_state(task_id, *states)

    def _change_some(self) -> str:
        """A bulk operation that has ended."""
        for _ in range(3):
            self.submit("default", {"note": "is cancelled"}, delay="24h", metadata={"batch": "cancelled"})
        reply = self.open.post("/v2/operations", {"action": "cancel", "q": "metadata.batch:cancelled"})
        assert reply.status == 202, reply
        self.wait_state(str(reply.json["id"]), "succeeded")
        return str(reply.json["id"])

    async def _long_answer(self, stage: Stage) -> None:
        if not stage.asked.body.get("stream"):
            return
        await stage.head()
        while not self._go_on.is_set():
            await stage.delta("word ")
            await asyncio.sleep(0.1)
        await stage.delta(finish="stop")
        await stage.event(choices=[], usage={"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30})
        await stage.send("data: [DONE]\n\n")
        await stage.end()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def until(condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    poll(condition, timeout=timeout, interval=0.1, message=what)
