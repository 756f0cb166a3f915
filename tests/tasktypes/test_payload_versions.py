"""Payload versions: tasks accepted before a deployment run after it, and while two deployments run side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from sytq.ids import new_id
from tests.installation import Installation
from tests.servers import poll

OLD = """
from pydantic import BaseModel
from sytq import Backoff, task

class Person(BaseModel, extra="forbid"):
    name: str

@task("greet", payload=Person, retry=Backoff(max_attempts=1))
def greet(ctx, person):
    return {"by": 1, "greeted": person.name}
"""
NEW = """
from pydantic import BaseModel
from sytq import Backoff, task

class Person(BaseModel, extra="forbid"):
    first: str
    last: str

def upgrade(payload, version):
    first, _, last = payload["name"].partition(" ")
    return {"first": first, "last": last}

@task("greet", payload=Person, retry=Backoff(max_attempts=1), version=2, upgrade=upgrade)
async def greet(ctx, person):
    return {"by": 2, "greeted": person.last}
"""
ADA = {"name": "Ada Lovelace"}
GRACE = {"first": "Grace", "last": "Hopper"}


@pytest.fixture
def deployments(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[dict[int, Installation]]:
    """One service, seen by the deployments of version 1 and version 2."""
    made = {}
    for version, text in ((1, OLD), (2, NEW)):
        folder = tmp_path / f"v{version}"
        folder.mkdir()
        (folder / "greet.py").write_text(text)
        made[version] = Installation(
            tmp_path / f"v{version}", database_url, redis_url, SYTQ_PLUGINS__PATHS=json.dumps([str(folder)])
        )
    yield made
    for installation in made.values():
        installation.close()


def submit(installation: Installation, payload: dict[str, str]) -> str:
    new = installation.runtime.submitter.prepare("greet", payload)
    installation.runtime.submitter.submit([new])
    return new.id


def result(installation: Installation, task_id: str) -> object:
    return json.loads(installation.wait_state(task_id, "succeeded").result)


def test_an_older_payload_is_upgraded_when_its_task_runs(
    deployments: dict[int, Installation], redis_client: redis.Redis
) -> None:
    old, new = deployments[1], deployments[2]
    queued = submit(old, ADA)
    redis_client.flushall()  # the version is in the row, not only in Redis
    again = submit(old, ADA)
    new.start_worker()
    assert result(new, queued) == result(new, again) == {"by": 2, "greeted": "Lovelace"}
    assert json.loads(new.row(queued).payload) == ADA  # as it was submitted
    assert (new.row(queued).version, new.row(queued).attempts) == (1, 1)


def test_a_newer_payload_waits_for_a_newer_worker_without_an_attempt(
    deployments: dict[int, Installation],
) -> None:
    old, new = deployments[1], deployments[2]
    worker = old.start_worker()
    task = submit(new, GRACE)
    poll(lambda: "no worker here knows version 2" in worker.text(), message="the old worker leaves it")
    assert result(new, submit(old, ADA)) == {
        "by": 1,
        "greeted": "Ada Lovelace",
    }  # and continues with the versions it knows
    new.start_worker()
    worker.terminate()
    assert result(new, task) == {"by": 2, "greeted": "Hopper"}
    assert new.row(task).attempts == 1


def test_a_row_without_a_version_has_the_current_version(deployments: dict[int, Installation]) -> None:
    new = deployments[2]
    new.start_worker()
    rows = {new_id(): (GRACE, None), new_id(): (ADA, 1)}
    mark = new.runtime.database.param
    for task_id, (payload, version) in rows.items():
        new.runtime.database.execute_sql(
            f"INSERT INTO sytq_tasks (id, type, payload, version) VALUES ({mark}, 'greet', {mark}, {mark})",
            (task_id, json.dumps(payload), version),
        )
    assert [result(new, task_id) for task_id in rows] == [
        {"by": 2, "greeted": "Hopper"},
        {"by": 2, "greeted": "Lovelace"},
    ]
