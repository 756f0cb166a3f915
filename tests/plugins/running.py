"""Attempts of a task in the test's own process, against a real ledger."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dramatiq import Message

from sytq.broker.delivery import Delivery
from sytq.config import load
from sytq.executor.attempt import Services
from sytq.executor.context import AsyncContext, Context
from sytq.ledger.search import Search
from sytq.runtime import Runtime, build
from tests.servers import make_tables


@contextmanager
def runtime_of(database_url: str, redis_url: str, **settings: str) -> Iterator[Runtime]:
    """The parts of an installation with a fresh ledger; `settings` are variables without SYTQ_."""
    environ = {"SYTQ_DATABASE__URL": database_url, "SYTQ_REDIS__URL": redis_url}
    made = build(load(environ=environ | {f"SYTQ_{name}": value for name, value in settings.items()}))
    make_tables(made.database)
    yield made
    made.database.close_all()  # type: ignore[attr-defined]


class Run:
    """One task. Each `start` is an attempt with a higher fencing token, as on a worker; it returns or raises."""

    def __init__(self, runtime: Runtime, type_name: str, payload: Any, created_at: dt.datetime | None = None) -> None:
        self._runtime = runtime
        self._declared = runtime.registry.get(type_name)
        self._created_at = created_at or dt.datetime.now(dt.UTC)
        new = runtime.submitter.prepare(type_name, payload)
        runtime.ledger.accept([new])
        self.id = new.id
        self._payload = payload
        self._attempts = 0

    def start(self) -> Any:
        self._attempts += 1
        message: Message[Any] = Message(
            queue_name=self._declared.queue,
            actor_name=self._declared.name,
            args=(self._payload,),
            kwargs={},
            options={},
            message_id=self.id,
            message_timestamp=int(self._created_at.timestamp() * 1000),
        )
        delivery = Delivery(message, stream="", entry=b"", body=b"", attempts=1, max_attempts=5, token=self._attempts)
        unused: Any = None
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            services = Services(
                settings=self._runtime.settings,
                ledger=self._runtime.ledger,
                operations=_NoProgress(),  # type: ignore[arg-type]
                limiters=unused,
                permits=unused,
                submitter=self._runtime.submitter,
                recording=self._runtime.recording,
                operator=self._runtime.operator,
                history=Search(self._runtime.database),
                client=unused,
                blocking_client=unused,
                threads=threads,
            )
            payload = self._declared.parse(self._payload)
            if self._declared.is_async:
                return asyncio.run(self._declared.function(AsyncContext(services, self._declared, delivery), payload))
            return self._declared.function(Context(services, self._declared, delivery), payload)


class _NoProgress:
    def report_progress(self, *_: object) -> bool:
        return True
