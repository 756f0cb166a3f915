"""The API together with real workers, on one installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api, Reply
from tests.servers import poll
from tests.workers import TRIALS, Installation


@dataclass
class Service:
    api: Api
    installation: Installation

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.api.request("POST", path, {} if body is None else body, headers)

    def get(self, path: str) -> Any:
        reply = self.api.request("GET", path)
        assert reply.status == 200, reply
        return reply.json

    def submit(self, type_name: str, name: str = "-", seconds: float = 0.0, **options: Any) -> str:
        """Submit a task by HTTP and return its id."""
        payload = {"journal": str(self.installation.journal), "name": name, "seconds": seconds}
        reply = self.post("/v2/tasks", {"type": type_name, "payload": payload, **options})
        assert reply.status == 202, reply
        return str(reply.json["id"])

    def wait(self, task_id: str, *states: str) -> Any:
        """The task once it is in one of the states."""
        poll(lambda: self.get(f"/v2/tasks/{task_id}")["state"] in states, message=f"{task_id} is {states}")
        self.installation.wait_state(task_id, *states)
        return self.get(f"/v2/tasks/{task_id}")


@pytest.fixture
def start(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Callable[..., Service]]:
    """Start an API on both databases; the test starts the workers."""
    made: list[Service] = []

    def service(**settings: str) -> Service:
        installation = Installation(tmp_path, database_url, redis_url, **settings)
        api = Api(database_url, redis_url, SYTQ_PLUGINS__PATHS=f'["{TRIALS}"]', **settings).start()
        made.append(Service(api, installation))
        return made[-1]

    yield service
    for each in made:
        each.api.remove()
        each.installation.close()


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    return start()
