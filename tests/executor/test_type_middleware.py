"""Middleware of a task type: around every attempt of that type, on threads and on the event loop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation

PLUGIN = """
import contextlib
from pydantic import BaseModel
from sytq import Backoff, Fail, task

class Order(BaseModel):
    key: str

@contextlib.contextmanager
def outer(ctx, order):
    ctx.detail(outer=order.key)
    try:
        yield
    except KeyError:
        raise Fail(f"there is no {order.key}") from None

@contextlib.contextmanager
def inner(ctx, order):
    yield ctx.detail(inner="inside" if "outer" in ctx._delivery.detail else "alone")

@contextlib.asynccontextmanager
async def outer_async(ctx, order):
    with outer(ctx, order):
        yield

@contextlib.asynccontextmanager
async def inner_async(ctx, order):
    with inner(ctx, order):
        yield

@task("plain-order", payload=Order, retry=Backoff(max_attempts=5), middleware=[outer, inner])
def plain_order(ctx, order):
    return {"good": "done"}[order.key]

@task("async-order", payload=Order, retry=Backoff(max_attempts=5), middleware=[outer_async, inner_async])
async def async_order(ctx, order):
    return {"good": "done"}[order.key]
"""


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "order.py").write_text(PLUGIN)
    url = f"sqlite:///{tmp_path / 'sytq.db'}"
    made = Installation(tmp_path, url, redis_url, SYTQ_PLUGINS__PATHS=json.dumps([str(tmp_path / "plugins")]))
    yield made
    made.close()


def test_middleware_of_a_type_wraps_every_attempt_first_outermost(shop: Installation) -> None:
    shop.start_worker()
    for kind in ("plain-order", "async-order"):
        tasks = {}
        for key in ("good", "bad"):
            new = shop.runtime.submitter.prepare(kind, {"key": key})
            shop.runtime.submitter.submit([new])
            tasks[key] = new.id
        assert json.loads(shop.wait_state(tasks["good"], "succeeded").result) == "done"
        assert shop.wait_state(tasks["bad"], "dead").error == "there is no bad"
        (attempt,) = shop.runtime.ledger.attempts(tasks["good"])
        assert json.loads(attempt.detail) == {"outer": "good", "inner": "inside"}
