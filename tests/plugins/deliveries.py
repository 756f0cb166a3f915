"""One attempt of a webhook task: the plugin's own function with a real context and client, and the policy's decision.

No Redis and no database: tests see the request, the outcome and the attempt's detail.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any, cast

from dramatiq import Message

from sytq import Limiter, Permit, config
from sytq.broker.delivery import Delivery, Outcome
from sytq.config import Settings
from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Services
from sytq.http.client import Client
from sytq.http.guard import Guard
from sytq.tasktypes.registry import Registry
from sytq.worker.middleware.retry import decide

LOOPBACK = Guard(["127.0.0.0/8"])
TASK = "01890a5d-ac96-774b-bcce-b302099a8057"


@dataclass(frozen=True)
class Attempt:
    outcome: Outcome
    detail: dict[str, Any]
    result: Any
    limiters: list[tuple[Limiter, str]]  # of the acquired permits, with the reported outcome


class Alone(AsyncContext):
    """A context without a store: every limiter grants its permit and keeps the reported outcome."""

    acquired: list[tuple[Limiter, Permit]]

    @asynccontextmanager
    async def acquire(self, *limiters: Limiter, cost: int = 0) -> AsyncIterator[Permit]:
        permit = Permit(self.id, 1, 0, limiters, cost)
        self.acquired = [(limiter, permit) for limiter in limiters]
        yield permit


def settings(**given: object) -> Settings:
    """Settings from keywords such as `webhook__secret=...`."""
    environ = {
        f"SYTQ_{key.upper()}": value if isinstance(value, str) else json.dumps(value) for key, value in given.items()
    }
    return config.load(environ=environ)


def started(payload: dict[str, Any], *, attempts: int = 1, age: float = 0.0, type_name: str = "webhook") -> Delivery:
    message = Message[Any](
        queue_name="webhook",
        actor_name=type_name,
        args=(payload,),
        kwargs={},
        options={},
        message_id=TASK,
        message_timestamp=int((time.time() - age) * 1000),
    )
    return Delivery(message, stream="s", entry=b"1-1", body=b"", attempts=attempts, max_attempts=0, token=attempts)


async def attempt(
    payload: dict[str, Any], given: Settings | None = None, guard: Guard = LOOPBACK, **options: Any
) -> Attempt:
    """Make one attempt now, in the caller's loop."""
    given = given or settings()
    declared = Registry.load(given).get(options.get("type_name", "webhook"))
    client = Client(guard, given.outbound.proxy)
    absent = dict.fromkeys((field.name for field in fields(Services)), cast(Any, None))
    services = Services(**absent | {"settings": given, "client": client})
    delivery = started(payload, **options)
    error: BaseException | None = None
    context = Alone(services, declared, delivery)
    context.acquired = []
    try:
        delivery.result = await declared.function(context, declared.parse(payload))
    except Exception as raised:
        error = raised
    finally:
        await client.close()
    limiters = [(limiter, permit.outcome) for limiter, permit in context.acquired]
    return Attempt(decide(declared, delivery, error), delivery.detail, delivery.result, limiters)


def attempt_now(payload: dict[str, Any], given: Settings | None = None, **options: Any) -> Attempt:
    """`attempt` for tests without an event loop."""
    return asyncio.run(attempt(payload, given, **options))
