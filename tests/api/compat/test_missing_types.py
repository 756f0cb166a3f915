"""An installation without `llm` and `webhook`: the endpoints of these types do not exist, all others work."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from sytq import config, plugins
from sytq.api import create_app
from sytq.ledger.migrations import migrate
from sytq.runtime import build

PATHS = ("/api/tasks/llm", "/api/v1/tasks/llm", "/api/v1/tasks")


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    monkeypatch.setattr(plugins, "_loaders", lambda folders: iter(()))
    environ = {"SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'sytq.db'}", "SYTQ_REDIS__URL": redis_url}
    settings = config.load(environ=environ)
    parts = build(settings)
    migrate(parts.database)
    parts.database.close_all()  # type: ignore[attr-defined]
    parts.redis.close()
    return settings


def responses(settings: config.Settings, *requests: tuple[str, str]) -> list[falcon.testing.Result]:
    app = create_app(settings)

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["headers"] = [tuple(pair) for pair in scope.get("headers", ())]  # Falcon's client: readable once
        await app(scope, receive, send)

    async def run() -> list[falcon.testing.Result]:
        async with falcon.testing.ASGIConductor(serve) as client:
            return [
                await client.simulate_request(method, path, host="localhost", json={} if method == "POST" else None)
                for method, path in requests
            ]

    return asyncio.run(run())


def test_endpoints_of_missing_types_are_404_in_their_envelope(settings: config.Settings) -> None:
    said = "the task type of this endpoint is not installed"
    record, prompt, request = responses(settings, *(("POST", path) for path in PATHS))
    assert (record.status_code, record.json) == (404, {"code": 404, "message": said})
    assert (prompt.status_code, prompt.json) == (404, {"error": said})
    assert (request.status_code, request.json) == (404, {"error": said})


def test_other_endpoints_work_and_openapi_lacks_the_missing_ones(settings: config.Settings) -> None:
    tasks, job, stats, document = responses(
        settings, ("GET", "/api/tasks"), ("POST", "/jobs"), ("GET", "/stats"), ("GET", "/openapi.json")
    )
    assert (tasks.status_code, tasks.json["data"]["total_count"], stats.status_code) == (200, 0, 200)
    assert (job.status_code, job.json["error"]) == (400, "type: 'default' is not a job type; valid: ")
    assert "/jobs" in document.json["paths"]
    assert not set(PATHS) & set(document.json["paths"])


def test_endpoints_of_missing_types_are_503_if_a_plugin_is_broken(
    settings: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_broken() -> None:
        raise SyntaxError

    monkeypatch.setattr(plugins, "_loaders", lambda folders: iter([("plugins/broken.py", load_broken)]))
    settings = config.load(environ={"SYTQ_DATABASE__URL": settings.database_url, "SYTQ_REDIS__URL": settings.redis.dsn})
    for response in responses(settings, *(("POST", path) for path in PATHS)):
        assert (response.status_code, response.headers["retry-after"]) == (503, "60")
