"""The limiters of task types and queues are not acquired by code."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sytq import Limiter
from sytq.errors import InvalidInput
from sytq.executor.context import Context
from sytq.runtime import Runtime
from tests.broker.bench import Bench
from tests.executor.test_lease import Started, asynchronous, runtime

__all__ = ["asynchronous", "runtime"]


@pytest.mark.parametrize("name", ["type:webhook", "queue:default"])
def test_code_that_acquires_the_limiter_of_a_type_or_queue_is_told_what_to_do(
    runtime: Runtime, asynchronous: bool, name: str
) -> None:
    context = Started(runtime, Bench(runtime.settings.redis.dsn), asynchronous).context

    def acquire() -> None:
        if isinstance(context, Context):
            with context.acquire(Limiter("provider:p", concurrency=1), Limiter(name, concurrency=1)):
                raise AssertionError("it was acquired")

        async def run() -> None:
            async with context.acquire(Limiter(name, concurrency=1)):
                raise AssertionError("it was acquired")

        asyncio.run(run())

    prefix = name.partition(":")[0]
    with pytest.raises(ValueError, match=f"'{name}'.*'{prefix}:'.*limiters\\.{name}.*another prefix"):
        acquire()
    permits = runtime.redis.ask("ZCARD", runtime.keys.permits)
    assert permits == 0


@pytest.mark.parametrize("name", ["type:default", "queue:default"])
def test_a_type_that_names_such_a_limiter_refuses_the_submission(runtime: Runtime, name: str) -> None:
    declared = replace(runtime.registry.get("default"), limiters=lambda _payload: [name])
    with pytest.raises(InvalidInput, match=f"'default': limiter '{name}'"):
        declared.limiter_names(declared.parse({}))
