"""Acquires and releases of one event loop share round trips."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sytq import Limiter, Permit, Waiting
from sytq.errors import RedisUnavailable
from sytq.executor.permits import PermitBatcher
from tests.broker.bench import Bench
from tests.broker.limiter_play import ONE, TWO, Play

NAMES = [f"t{number:02}" for number in range(40)]


@pytest.fixture
def play(redis_url: str) -> Play:
    return Play(Bench(redis_url))


@contextmanager
def held_up(play: Play, monkeypatch: pytest.MonkeyPatch, only: str = "") -> Iterator[tuple[list[str], threading.Event]]:
    """The scripts called since; the first of them (of this name) waits for the event."""
    calls: list[str] = []
    go, real = threading.Event(), play.bench.redis.call

    def call(script: str, *args: Any) -> Any:
        calls.append(script)
        if not only or script == only:
            assert go.wait(60)
        return real(script, *args)

    monkeypatch.setattr(play.bench.redis, "call", call)
    yield calls, go


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def test_waiting_acquires_share_the_next_round_trip(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play.running(*NAMES)
    wide = Limiter("host:wide", concurrency=100)

    async def run() -> list[str]:
        batcher = PermitBatcher(play.limiters)
        with held_up(play, monkeypatch) as (calls, go):
            permits = [play.permit(name, wide) for name in NAMES]
            first = asyncio.create_task(batcher.acquire(permits[0]))
            await until(lambda: calls)
            others = [asyncio.create_task(batcher.acquire(permit)) for permit in permits[1:]]
            await asyncio.sleep(0)
            go.set()
            await asyncio.gather(first, *others)
            await asyncio.gather(*map(batcher.release, permits))
            return calls

    assert asyncio.run(run()) == ["limiter_acquire", "limiter_acquire", "limiter_release"]
    assert play.state(wide).running == 0


def test_permit_released_in_a_batch_goes_to_the_oldest_acquire(play: Play) -> None:
    play.running("a", "b", "c")
    old, young = play.permit("b", ONE, created=5), play.permit("c", ONE, created=7)

    async def run() -> list[object]:
        batcher = PermitBatcher(play.limiters)
        inside = play.permit("a", ONE)
        await batcher.acquire(inside)
        calls = batcher.release(inside), batcher.acquire(young), batcher.acquire(old)
        return list(await asyncio.gather(*calls, return_exceptions=True))

    released, refused, acquired = asyncio.run(run())
    assert (released, acquired) == (None, None)
    assert isinstance(refused, Waiting)
    assert play.state(ONE).running == 1


def test_cancelled_acquires_hold_no_permit(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play.running("a", "b")
    permits = [play.permit("a", TWO), play.permit("b", TWO)]

    async def through(batcher: PermitBatcher, permit: Permit) -> None:
        try:
            await batcher.acquire(permit)
        finally:
            await batcher.release(permit)

    async def run() -> list[str]:
        batcher = PermitBatcher(play.limiters)
        with held_up(play, monkeypatch, only="limiter_acquire") as (calls, go):
            first = asyncio.create_task(through(batcher, permits[0]))
            await until(lambda: calls)
            second = asyncio.create_task(through(batcher, permits[1]))
            await asyncio.sleep(0)
            first.cancel()
            second.cancel()
            await asyncio.sleep(0)
            go.set()
            await asyncio.wait([first, second])
            return calls

    assert asyncio.run(run()) == ["limiter_acquire", "limiter_release"]
    assert play.state(TWO).running == 0


def test_unavailable_redis_fails_every_acquire_of_a_batch(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play.running("a", "b")
    permits = [play.permit("a", TWO), play.permit("b", TWO)]

    def unavailable(*_: Any) -> Any:
        raise RedisUnavailable("away")

    async def run() -> list[object]:
        batcher = PermitBatcher(play.limiters)
        monkeypatch.setattr(play.bench.redis, "call", unavailable)
        return list(await asyncio.gather(*map(batcher.acquire, permits), return_exceptions=True))

    assert [type(answer) for answer in asyncio.run(run())] == [RedisUnavailable, RedisUnavailable]
