"""The permit that a task was fetched with, in the hands of its attempt."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from pydantic import BaseModel

from sytq import AsyncContext, Breaker, Limiter, task
from sytq.broker.dispatcher import Envelope
from sytq.broker.limiter import Permit, settings_of
from sytq.broker.limiter_states import LimiterState
from tests.broker.limiter_play import acquire
from tests.plugins.running import attempt, delivery_of, runtime_of

FIRST = Limiter("provider:first", concurrency=1, breaker=Breaker(min_calls=1))
SECOND = Limiter("provider:second", concurrency=1)


class Nothing(BaseModel):
    pass


def second_call(folder: Path, redis_url: str, fetched: Limiter, *more: Limiter) -> LimiterState:
    """The state of a limiter, of which the task was fetched with a permit, while a second call is under way."""
    with runtime_of(f"sqlite:///{folder / 'sytq.db'}", redis_url) as runtime:

        @task("twice", payload=Nothing)
        async def twice(ctx: AsyncContext, payload: Nothing) -> LimiterState | None:
            async with ctx.acquire(FIRST) as permit:
                permit.report("failed")
            async with ctx.acquire(SECOND):
                return await ctx.blocking(runtime.inspection.limiter, fetched.name)

        runtime.registry.add(twice)
        declared = runtime.registry.get("twice")
        delivery = delivery_of(declared, {}, "t", dt.datetime.now(dt.UTC), attempts=1, token=1)
        limits = {limiter.name: settings_of(limiter) for limiter in (fetched, *more)}
        delivery.permit = Permit.fetched("t", 1, delivery.created_ms, limits, 0, 0)
        acquire(runtime.limiters, delivery.permit)
        state: LimiterState = attempt(runtime, delivery)
        return state


def test_call_after_the_first_holds_no_permit_of_it_and_its_outcome_counts(tmp_path: Path, redis_url: str) -> None:
    state = second_call(tmp_path, redis_url, FIRST)
    assert (state.running, state.state) == (0, "open")


def test_permit_of_a_limited_type_is_held_by_the_whole_attempt(tmp_path: Path, redis_url: str) -> None:
    assert second_call(tmp_path, redis_url, Limiter("type:twice", concurrency=1), FIRST).running == 1


def test_message_for_another_attempt_names_no_limiters_once_a_step_is_done(tmp_path: Path) -> None:
    def message(*limiters: str) -> bytes:
        payload = '{"text": "\\"priority\\": \\"low\\", \\"limiters\\": \\"x\\""}'
        return Envelope("t", "one", "default", "normal", payload, 1, version=2, limiters=limiters).message().encode()

    with runtime_of(f"sqlite:///{tmp_path / 'sytq.db'}", "redis://127.0.0.1:1/0") as runtime:
        declared = runtime.registry.get("webhook")
        delivery = delivery_of(declared, {}, "t", dt.datetime.now(dt.UTC), attempts=1, token=1)
    for named in (message("a:b", "c:d"), message()):
        delivery.body, delivery.stepped = named, False
        assert delivery.next_body == named
        delivery.stepped = True
        assert delivery.next_body == message()
