"""The log of a real service: one line a task, no warning without a fault, and an outage said once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.installation import Installation
from tests.servers import RedisServer, poll

OVER = "Redis answers again"


def lines(on: Installation) -> list[dict[str, Any]]:
    """What API and worker have logged; Dramatiq's first process writes plain text."""
    text = "\n".join(process.text() for process in (*on.workers, on.gunicorn))
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def submit(on: Installation, count: int) -> list[str]:
    return [on.post_task("plain") for _ in range(count)]


@pytest.mark.parametrize(("tasks", "most"), [("attempts", 2), ("finished", 1), ("failed", 0), ("none", 0)])
def test_succeeded_task_has_as_many_lines_as_configured(installation: Installation, tasks: str, most: int) -> None:
    installation.start_worker(SYTQ_LOGGER__TASKS=tasks)
    installation.start_api(SYTQ_LOGGER__TASKS=tasks)
    ids = submit(installation, 40)
    for task_id in ids:
        installation.wait_state(task_id, "succeeded")
    found = lines(installation)
    told = Counter(line["task_id"] for line in found if "task_id" in line)
    assert [told[task_id] for task_id in ids] == [most] * 40
    assert not [line for line in found if line["level"] not in ("info", "debug")]
    assert not [line for line in found if "did not know" in line["msg"]]


def test_redis_outage_is_logged_once_with_a_count(
    make_installation: Callable[..., Installation], own_redis: RedisServer
) -> None:
    on = make_installation(redis_url=own_redis.url)
    on.start_worker()
    on.start_api()
    on.wait_state(submit(on, 1)[0], "succeeded")
    own_redis.kill()
    poll(lambda: any("loop waits" in process.text() for process in on.workers), message="the worker notices")
    during = submit(on, 100)
    own_redis.start()
    for task_id in during:
        on.wait_state(task_id, "succeeded", timeout=30)
    poll(lambda: {line["process"] for line in lines(on) if line["msg"] == OVER} >= {"worker"}, message="it is over")
    warnings = [line for line in lines(on) if line["level"] == "warning"]
    told = Counter((line["process"], line["msg"], line.get("error")) for line in warnings)
    assert told and set(told.values()) == {1}, told
    (end,) = [line for line in lines(on) if line["msg"] == OVER and line["process"] == "worker"]
    assert end["more"] > 3 and end["unavailable"] > 0
