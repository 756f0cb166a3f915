"""At most 2,000 clients wait in a process; filled in process, as the limit is no setting and sockets are few."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from sytq import config
from sytq.api import app, task_watcher
from sytq.runtime import build
from tests.tables import make_tables


def test_a_wait_beyond_the_limit_is_answered_at_once(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[task_watcher.TaskWatcher] = []

    class Kept(task_watcher.TaskWatcher):
        def __init__(self, *parts: object) -> None:
            super().__init__(*parts)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(app, "TaskWatcher", Kept)
    environ = {"SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'sytq.db'}", "SYTQ_REDIS__URL": redis_url}
    settings = config.load(environ=environ)
    parts = build(settings)
    make_tables(parts.database)
    parts.database.close_all()  # type: ignore[attr-defined]
    parts.redis.close()

    served = app.create_app(settings)

    async def as_a_server(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["headers"] = [tuple(pair) for pair in scope.get("headers", ())]  # Falcon's client gives an iterator
        await served(scope, receive, send)

    async def scenario() -> None:
        async with falcon.testing.ASGIConductor(as_a_server) as client, AsyncExitStack() as others:

            async def asked(method: str, path: str, seconds: int, body: object = None) -> falcon.testing.Result:
                headers = {"Prefer": f"wait={seconds}"}
                async with asyncio.timeout(40):
                    return await client.simulate_request(method, path, headers=headers, host="localhost", json=body)

            task = {"type": "default", "delay": "1h"}
            path = (await asked("POST", "/v2/tasks", 0, task)).headers["location"]
            assert (await asked("GET", path, 0)).headers["preference-applied"] == "wait=0"

            for _ in range(2000):
                await others.enter_async_context(made[0].watch("another"))
            at_once = await asked("GET", path, 60)
            assert (at_once.status_code, at_once.json["state"]) == (200, "scheduled")
            submitted = await asked("POST", "/v2/tasks", 60, task)
            assert (submitted.status_code, submitted.json["state"]) == (202, "scheduled")
            for answer in (at_once, submitted):
                assert "preference-applied" not in answer.headers
            refused = await asked("GET", f"{path}/events", 0)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json["type"] == "urn:sytq:problem:unavailable"

            await others.aclose()
            for _ in range(1999):
                await others.enter_async_context(made[0].watch("another"))
            async with client.simulate_get_stream(f"{path}/events", host="localhost") as stream:
                assert stream.status_code == 200
                assert await stream.stream.read()
                # A stream holds the last of the 2,000.
                assert "preference-applied" not in (await asked("GET", path, 60)).headers
            await others.aclose()
            assert (await asked("GET", path, 0)).headers["preference-applied"] == "wait=0"

    asyncio.run(scenario())
