"""Attempts of a task in the test's own process, against a real ledger of either engine.

For types whose SQL or limiters are what is tested; a test of one type alone takes `sytq.testing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dramatiq import Message

from sytq.broker.delivery import Delivery
from sytq.config import load
from sytq.executor.async_context import AsyncContext
from sytq.executor.context import Context
from sytq.executor.portal import Portal
from sytq.http.client import Client
from sytq.runtime import Runtime, build
from sytq.tasktypes.tasktype import TaskType
from sytq.worker_runtime import task_services
from tests.tables import make_tables


@contextmanager
def runtime_of(database_url: str, redis_url: str, **settings: str) -> Iterator[Runtime]:
    """The parts of an installation with a fresh ledger; `settings` are variables without SYTQ_."""
    environ = {"SYTQ_DATABASE__URL": database_url, "SYTQ_REDIS__URL": redis_url}
    made = build(load(environ=environ | {f"SYTQ_{name}": value for name, value in settings.items()}))
    make_tables(made.database)
    yield made
    made.database.close_all()  # type: ignore[attr-defined]


def delivery_of(
    declared: TaskType, payload: Any, task_id: str, created_at: dt.datetime, *, attempts: int, token: int
) -> Delivery:
    """What a worker fetches of a task."""
    message = Message[Any](
        queue_name=declared.queue,
        actor_name=declared.name,
        args=(payload,),
        kwargs={},
        options={},
        message_id=task_id,
        message_timestamp=int(created_at.timestamp() * 1000),
    )
    return Delivery(message, stream="", entry=b"", body=b"", attempts=attempts, max_attempts=4, token=token)


def attempt(
    runtime: Runtime, delivery: Delivery, cut_off: threading.Event | None = None, operations: Any = None
) -> Any:
    """Run one attempt as on a worker; return its result or raise. Once `cut_off` is set it writes nothing more.

    `operations` replaces those of the runtime, which need Redis.
    """

    async def cancel_when_cut_off() -> Any:
        running = asyncio.create_task(_attempt(runtime, delivery, operations))
        while cut_off is not None and not cut_off.is_set():
            await asyncio.sleep(0.01)
        if cut_off is not None:
            running.cancel()
        return await running

    return asyncio.run(cancel_when_cut_off())


async def _attempt(runtime: Runtime, delivery: Delivery, operations: Any) -> Any:
    declared = runtime.registry.get(delivery.type)
    client = Client(runtime.guard)
    services = task_services(runtime, client, runtime.limiters)
    if operations is not None:
        services = dataclasses.replace(services, operations=operations)
    with contextlib.closing(services):
        try:
            payload = declared.parse(delivery.payload)
            if declared.is_async:
                return await declared.function(AsyncContext(services, declared, delivery), payload)
            portal = Portal(asyncio.get_running_loop())
            context = Context(AsyncContext(services, declared, delivery, portal=portal), portal)
            return await asyncio.to_thread(declared.function, context, payload)
        finally:
            await client.close()


class _WithoutRedis:
    """Operations without Redis: progress is dropped, and no result of a step is kept."""

    def report_progress(self, *_: object) -> bool:
        return True

    def kept_result(self, *_: object) -> None:
        return None


class Run:
    """One task, which needs no Redis. Each `start` is an attempt with a higher fencing token; it returns or raises."""

    def __init__(self, runtime: Runtime, type_name: str, payload: Any, created_at: dt.datetime | None = None) -> None:
        self._runtime = runtime
        self._declared = runtime.registry.get(type_name)
        self._payload = payload
        self._created_at = created_at or dt.datetime.now(dt.UTC)
        new = runtime.submitter.prepare(type_name, payload)
        runtime.ledger.accept([new])
        self.id = new.id
        self.token = 1_796_000_000_000  # a time in ms, as Redis gives it

    def start(self) -> Any:
        self.token += 1
        delivery = delivery_of(self._declared, self._payload, self.id, self._created_at, attempts=1, token=self.token)
        return attempt(self._runtime, delivery, operations=_WithoutRedis())
