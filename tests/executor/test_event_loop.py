"""A delivery that is cancelled as soon as it was submitted has an end, as every other; and its end frees it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from dramatiq import Message

from sytq.broker.delivery import Delivery
from sytq.executor.event_loop import EventLoop
from tests.servers import poll


async def sleeps(_: Delivery) -> None:
    await asyncio.sleep(3600)


async def fails(_: Delivery) -> None:
    """As aiohttp does: the error refers to the frame that refers to the error."""
    kept: Exception | None = None
    try:
        raise OSError("refused")
    except OSError as error:
        kept = error
    raise ValueError("failed") from kept


@pytest.fixture
def ended() -> list[Delivery]:
    return []


@pytest.fixture
def event_loop(ended: list[Delivery]) -> Iterator[EventLoop]:
    broker: Any = SimpleNamespace(actors={"default": SimpleNamespace(options={"runner": sleeps})})
    hooks: Any = SimpleNamespace(around=lambda _: nullcontext())
    made = EventLoop(broker, hooks, threading.Event(), ended.append)
    made.start()
    yield made
    made.stop()


def a_delivery() -> Delivery:
    message = Message[Any]("default", "default", ({},), {}, {}, message_id="a")
    return Delivery(message, stream="", entry=b"", body=b"", attempts=1, max_attempts=5, token=1)


@pytest.fixture
def delivery() -> Delivery:
    return a_delivery()


def test_a_delivery_that_is_cancelled_before_its_first_step_ends(
    event_loop: EventLoop, ended: list[Delivery], delivery: Delivery
) -> None:
    busy = threading.Event()
    event_loop.loop.call_soon_threadsafe(busy.wait)  # so that both are done in one turn
    event_loop.submit([delivery])
    event_loop.cancel(delivery)
    busy.set()
    poll(lambda: ended == [delivery], message="it has ended")


def test_a_delivery_that_is_cancelled_between_its_fetch_and_its_start_ends(
    event_loop: EventLoop, ended: list[Delivery], delivery: Delivery
) -> None:
    delivery.cancelled_by = "ops"  # as the heartbeat does
    event_loop.cancel(delivery)
    event_loop.submit([delivery])
    poll(lambda: ended == [delivery], message="it has ended")


def test_a_failed_delivery_is_freed_without_the_garbage_collector(event_loop: EventLoop, ended: list[Delivery]) -> None:
    event_loop._broker.actors["default"].options["runner"] = fails
    gc.disable()
    try:
        event_loop.submit([a_delivery()])
        poll(lambda: ended, message="it has ended")
        freed = weakref.ref(ended.pop())
        poll(lambda: freed() is None, message="it is freed")
    finally:
        gc.enable()
